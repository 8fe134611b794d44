//! The settings in a TOML file. They are called as their flags are, and lie side by side whichever part they belong to.

use super::{Settings, forward, names};
use anyhow::Context;
use clap::Args;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, Deserializer, Error};

pub(super) fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("can't read the configuration file {}", path.display()))?;
    // toml's own message would quote the whole line, which may hold a password.
    parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text.get(..span.start).unwrap_or(&text).matches('\n').count());
        anyhow::anyhow!("in the configuration file {}, line {line}: {}", path.display(), error.message())
    })
}

fn parse(text: &str) -> Result<Settings, Error> {
    let mut table = DeTable::parse(text)?;
    let names = part::<names::Settings>(&mut table)?;
    let forwarding = part::<forward::ForwardSettings>(&mut table)?;
    // What is left belongs here, or is unknown.
    Ok(Settings { names, forwarding, ..settings(table)? })
}

/// Takes the settings of one part out of the table.
fn part<T: Args + DeserializeOwned>(table: &mut Spanned<DeTable<'_>>) -> Result<T, Error> {
    let flags = T::augment_args(clap::Command::new("part"));
    let mut own = DeTable::new();
    for name in flags.get_arguments().filter_map(|flag| flag.get_long()) {
        if let Some((key, value)) = table.get_mut().remove_entry(name) {
            own.insert(key, value);
        }
    }
    settings(Spanned::new(table.span(), own))
}

fn settings<T: DeserializeOwned>(table: Spanned<DeTable<'_>>) -> Result<T, Error> {
    T::deserialize(Deserializer::from(table))
}
