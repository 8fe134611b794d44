//! How the store in etcd is reached, from the settings that say so.

use super::Settings;
use anyhow::{Context, bail};
use clap::ValueEnum;
use fingerpost_registry::store::etcd::Password;
use serde::Deserialize;
use std::path::PathBuf;
use std::str::FromStr;

/// Where records are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    /// In the data folder, by this process alone
    #[default]
    Embedded,
    /// In etcd, with other replicas
    Etcd,
}

impl FromStr for StoreKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false).map_err(|_| "write `embedded` or `etcd`".to_owned())
    }
}

/// An etcd user: `name`, or `name:password`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct EtcdUser {
    name: String,
    password: Option<Password>,
}

impl FromStr for EtcdUser {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, password) = match text.split_once(':') {
            Some((name, password)) => (name, Some(Password(password.to_owned()))),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("write a name, or `name:password`");
        }
        Ok(Self { name: name.to_owned(), password })
    }
}

impl TryFrom<String> for EtcdUser {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The store in etcd.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct EtcdConfig {
    /// The members' client URLs, at least one.
    pub(crate) endpoints: Vec<String>,
    /// The authority that signed their certificates.
    pub(crate) ca: Option<PathBuf>,
    /// This replica's certificate.
    pub(crate) cert: Option<PathBuf>,
    /// Its key.
    pub(crate) key: Option<PathBuf>,
    /// The user and its password.
    pub(crate) user: Option<(String, Password)>,
    /// What all keys begin with.
    pub(crate) prefix: String,
    /// Whether an etcd that may lose leases is taken.
    pub(crate) allow_old: bool,
}

impl EtcdConfig {
    /// What the settings say of etcd; none where the store is another.
    pub(super) fn from(settings: &Settings) -> anyhow::Result<Option<Self>> {
        if settings.store.unwrap_or_default() == StoreKind::Embedded {
            if settings.etcd_endpoints.is_some() {
                bail!("etcd-endpoints are given, but the store is `embedded`; add --store etcd");
            }
            return Ok(None);
        }
        let endpoints = settings.etcd_endpoints.clone().unwrap_or_default();
        if endpoints.is_empty() {
            bail!("--store etcd needs --etcd-endpoints, as in `http://127.0.0.1:2379`");
        }
        let password = match &settings.etcd_password_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("can't read the password file {}", path.display()))?;
                Some(Password(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            None => None,
        };
        let user = match (&settings.etcd_user, password) {
            (None, None) => None,
            (None, Some(_)) => bail!("etcd-password-file is given, but no etcd-user"),
            (Some(EtcdUser { password: Some(_), .. }), Some(_)) => {
                bail!("the etcd user's password is given twice: in etcd-user and in etcd-password-file")
            }
            (Some(user), password) => match user.password.clone().or(password) {
                Some(password) => Some((user.name.clone(), password)),
                None => bail!("etcd-user `{}` has no password; give it with --etcd-password-file", user.name),
            },
        };
        Ok(Some(Self {
            endpoints,
            ca: settings.etcd_ca.clone(),
            cert: settings.etcd_cert.clone(),
            key: settings.etcd_key.clone(),
            user,
            prefix: settings.etcd_prefix.clone().unwrap_or_else(|| "/fingerpost".to_owned()),
            allow_old: settings.etcd_allow_old.unwrap_or(false),
        }))
    }
}
