//! Running other programs, with errors that name them.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// A command that starts in the repository's root.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Runs cargo with the given arguments.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    command("cargo").args(arguments).checked()
}

/// Whether a program can be found.
pub(crate) fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

pub(crate) trait Checked {
    /// Runs to the end; anything but success is an error that names the command.
    fn checked(&mut self) -> Result<()>;

    /// The same; what it printed.
    fn text(&mut self) -> Result<String>;
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Checked for Command {
    fn checked(&mut self) -> Result<()> {
        let shown = shown(self);
        eprintln!("$ {shown}");
        let status = self.status().with_context(|| format!("can't run `{shown}`"))?;
        if !status.success() {
            bail!("`{shown}` failed: {status}");
        }
        Ok(())
    }
    fn text(&mut self) -> Result<String> {
        let shown = shown(self);
        let output = self.output().with_context(|| format!("can't run `{shown}`"))?;
        if !output.status.success() {
            bail!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed something else than text"))
    }
}
