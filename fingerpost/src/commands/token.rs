//! `token new` and `token hash`: what fills the tokens file of `serve`. The token itself is printed once and kept nowhere.

use crate::cli::{NewTokenArgs, RoleArg, TokenCommand};
use crate::output::Output;
use anyhow::Context;
use fingerpost_registry::access::grants::Grants;
use fingerpost_registry::access::{Token, TokenHash};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The entry of a token, as the tokens file has it.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    sha256: String,
    role: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    sources: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    namespaces: &'a [String],
}

pub(super) fn run(output: &Output, command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::New(args) => new(output, &args),
        TokenCommand::Hash => hash(output),
    }
}

fn new(output: &Output, args: &NewTokenArgs) -> anyhow::Result<()> {
    let token = Token::generate()?;
    let entry = entry(args, &token.hash())?;
    // Whatever is wrong with it is told before there is a token that nobody knows.
    entry.parse::<Grants>()?;
    match &args.append {
        Some(file) => append(file, &entry).with_context(|| format!("can't add to {}", file.display()))?,
        None => eprintln!("For the tokens file:\n\n{entry}\nThe token, which is shown only now:"),
    }
    Ok(output.text(&format!("{}\n", token.reveal()))?)
}

fn entry(args: &NewTokenArgs, hash: &TokenHash) -> anyhow::Result<String> {
    let role = match args.role {
        RoleArg::Reader => "reader",
        RoleArg::Registrar => "registrar",
        RoleArg::Admin => "admin",
    };
    let (sources, namespaces) = (&args.sources, &args.namespaces);
    let entry = Entry { name: &args.name, sha256: hash.to_string(), role, sources, namespaces };
    Ok(format!("[[token]]\n{}", toml::to_string(&entry)?))
}

/// Adds an entry to a tokens file, if the file is good with it.
fn append(path: &Path, entry: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let gap = match text.as_str() {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let added = format!("{gap}{entry}");
    (text + &added).parse::<Grants>()?;
    file.write_all(added.as_bytes())?;
    Ok(File::sync_all(&file)?)
}

fn hash(output: &Output) -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text).context("can't read a token from standard input")?;
    let token: Token = text.trim().parse()?;
    Ok(output.text(&format!("{}\n", token.hash()))?)
}
