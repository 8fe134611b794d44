//! Opening the store that the configuration names.

use super::signals::Ends;
use crate::config::ServeConfig;
use anyhow::Result;
use fingerpost_registry::store::Store;
use fingerpost_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use fingerpost_registry::store::etcd::{EtcdOptions, EtcdStore};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// Opens it. While etcd does not answer, this goes on trying, and says so: replicas and etcd may be started in any order.
/// What waiting can't mend is an error. None where the process was told to end meanwhile.
pub(super) async fn open(config: &ServeConfig, ends: &mut Ends) -> Result<Option<Arc<dyn Store>>> {
    let Some(etcd) = &config.etcd else {
        let options = EmbeddedOptions::new(&config.answers.data_dir);
        let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(options)).await??;
        return Ok(Some(store));
    };
    let mut options = EtcdOptions::new(&etcd.endpoints);
    options.prefix = etcd.prefix.clone();
    (options.ca, options.cert, options.key) = (etcd.ca.clone(), etcd.cert.clone(), etcd.key.clone());
    if let Some((user, password)) = &etcd.user {
        (options.user, options.password) = (Some(user.clone()), Some(password.clone()));
    }
    options.url = config.advertise_url.clone();
    options.data_dir = Some(config.answers.data_dir.clone());
    options.allow_old_etcd = etcd.allow_old;
    options.open_timeout = Duration::from_secs(5);
    loop {
        let opened = tokio::select! {
            opened = EtcdStore::open(options.clone()) => opened,
            () = ends.next() => return Ok(None),
        };
        match opened {
            Ok(store) => {
                info!(endpoints = etcd.endpoints.join(","), prefix = etcd.prefix, "the store in etcd is open");
                return Ok(Some(store));
            }
            Err(error) if error.passes() => warn!("{error}; trying again"),
            Err(error) => return Err(error.into()),
        }
    }
}
