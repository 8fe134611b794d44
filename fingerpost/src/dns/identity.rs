//! Who a DNS server is: the same after each start on the same data, and alone on it.

use anyhow::{Context, Result, bail};
use fingerpost_catalog::validate_instance_id;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// The file that keeps the id.
const ID: &str = "follower-id";
/// The file that is held by the process that uses the folder.
const LOCK: &str = "lock";

/// Makes the folder where there is none, and holds it for as long as what is returned lives.
pub(super) fn hold(folder: &Path) -> Result<File> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("can't make the data folder {shown}"))?;
    let lock = File::create(folder.join(LOCK)).with_context(|| format!("can't write in the data folder {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => bail!("another process uses the data folder {shown}"),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't hold the data folder {shown}"))
        }
    }
}

/// The id that the folder keeps; one that is made and kept now where it has none.
pub(super) fn of(folder: &Path) -> Result<String> {
    let path = folder.join(ID);
    match std::fs::read_to_string(&path) {
        Ok(text) if validate_instance_id(text.trim()).is_ok() => return Ok(text.trim().to_owned()),
        Ok(_) => tracing::warn!(path = %path.display(), "this holds no id, and gets a new one"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    }
    let named = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let host = named.unwrap_or_else(|_| "dns".to_owned());
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let host: String = host.chars().filter(fits).take(200).collect();
    // Another one than that of any other server on this host.
    let id = format!("{host}-{:08x}", rand::random::<u32>());
    std::fs::write(&path, format!("{id}\n")).with_context(|| format!("can't write {}", path.display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_and_a_folder_has_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("new");
        let held = hold(&data).unwrap();
        assert!(hold(&data).unwrap_err().to_string().contains("another process"));
        let id = of(&data).unwrap();
        assert_eq!(of(&data).unwrap(), id);
        std::fs::write(data.join(ID), "not an id\n").unwrap();
        assert_ne!(of(&data).unwrap(), id);
        drop(held);
        hold(&data).unwrap();
    }
}
