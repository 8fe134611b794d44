//! The C interface, from C and from Python.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::{Server, output_of};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shared library, built beside this test.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let deps = own.parent().unwrap();
    let found = [deps, deps.parent().unwrap()].map(|folder| folder.join("libfingerpost_c.so"));
    found.into_iter().find(|path| path.is_file()).expect("libfingerpost_c.so lies beside this test")
}

#[test]
fn the_header_is_what_the_code_says() {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_crate(root()).with_config(config).generate().unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let header = root().join("include/fingerpost.h");
    let made = String::from_utf8(made).unwrap();
    if std::env::var_os("FINGERPOST_WRITE_HEADER").is_some() {
        std::fs::write(&header, &made).unwrap();
    }
    let there = std::fs::read_to_string(&header).unwrap_or_default();
    assert!(made == there, "include/fingerpost.h is not of this code: run this test with FINGERPOST_WRITE_HEADER=1");
}

#[tokio::test]
async fn from_c() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("discover");
    let library = library();
    output_of(
        Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
            .arg(root().join("include"))
            .arg(root().join("examples/discover.c"))
            .arg(&library)
            .arg("-o")
            .arg(&program),
    );
    let said = output_of(Command::new(&program).arg(&server.url).env("LD_LIBRARY_PATH", library.parent().unwrap()));
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("10.9.8.7:8080"));
    let found: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert!(found["endpoints"].is_array(), "{found}");
    let left = server.get("/v1/namespaces/prod/services/c/instances/c-1").await;
    assert_eq!(left.status, 404, "{left:?}");
}

#[tokio::test]
async fn from_python() {
    let server = Server::start();
    for n in 1..=2 {
        let path = format!("/v1/namespaces/prod/services/web/instances/web-{n}");
        server.put(&path, json!({"addresses": [format!("10.0.0.{n}")]})).await;
    }
    let script = root().join("examples/discover.py");
    let said = output_of(Command::new("python3").arg(script).arg(library()).args([&server.url, "prod/web"]));
    assert_eq!(said, "web-1 10.0.0.1\nweb-2 10.0.0.2\n");
}
