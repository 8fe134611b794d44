//! Where things lie in etcd.
//!
//! Everything that replicas follow is under `<prefix>/v1/`, so that one watch brings it in one order: the records, who is
//! alive, the epoch and the schema. What only makes writes safe to repeat lies beside it, so that nobody has to follow it.

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    watched: String,
}

/// What a key under the watched prefix is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place<'a> {
    /// A record, by the text of its [`Key`](fingerpost_catalog::Key).
    Record(&'a str),
    /// A live replica, by its id.
    Replica(&'a str),
    /// The identity of the history.
    Epoch,
    /// The schema of the records.
    Schema,
    /// What replicas prove themselves with.
    Secret,
    /// What changes whenever a replica joins.
    Joins,
    /// Nothing of ours.
    Foreign,
}

impl Keys {
    /// The keys under a prefix like `/fingerpost`.
    pub(super) fn new(prefix: &str) -> Result<Self, String> {
        let fits = prefix.starts_with('/')
            && !prefix.ends_with('/')
            && prefix.len() <= 128
            && prefix.bytes().all(|c| c.is_ascii_graphic());
        if !fits {
            return Err(format!(
                "`{prefix}` is no prefix for keys: write it like `/fingerpost`, with a slash first and none at the end, in \
                 at most 128 visible ASCII characters"
            ));
        }
        Ok(Self { prefix: prefix.to_owned(), watched: format!("{prefix}/v1/") })
    }

    /// What the one watch follows.
    pub(super) fn watched(&self) -> &str {
        &self.watched
    }

    /// A record.
    pub(super) fn record(&self, text: &str) -> String {
        format!("{}records/{text}", self.watched)
    }

    /// All records.
    pub(super) fn records(&self) -> String {
        format!("{}records/", self.watched)
    }

    /// The epoch, with the cluster that it was made on.
    pub(super) fn epoch(&self) -> String {
        format!("{}meta/epoch", self.watched)
    }

    /// The schema of the records.
    pub(super) fn schema(&self) -> String {
        format!("{}meta/schema", self.watched)
    }

    /// The replicas' secret.
    pub(super) fn secret(&self) -> String {
        format!("{}meta/secret", self.watched)
    }

    /// Who joined last. What counts is when it was written.
    pub(super) fn joins(&self) -> String {
        format!("{}meta/joins", self.watched)
    }

    /// A replica, for as long as it lives.
    pub(super) fn replica(&self, id: &str) -> String {
        format!("{}replicas/{id}", self.watched)
    }

    /// The write slots of all replicas.
    pub(super) fn writes(&self) -> String {
        format!("{}/writes/", self.prefix)
    }

    /// One replica's write slots.
    pub(super) fn slots(&self, id: &str) -> String {
        format!("{}/writes/{id}/", self.prefix)
    }

    /// The replica that a slot belongs to.
    pub(super) fn slot_owner<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let rest = key.strip_prefix(self.writes().as_bytes())?;
        std::str::from_utf8(rest).ok()?.split_once('/').map(|(id, _)| id)
    }

    /// What a key is.
    pub(super) fn place<'a>(&self, key: &'a [u8]) -> Place<'a> {
        let rest = key.strip_prefix(self.watched.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
        match rest {
            Some("meta/epoch") => Place::Epoch,
            Some("meta/schema") => Place::Schema,
            Some("meta/secret") => Place::Secret,
            Some("meta/joins") => Place::Joins,
            Some(rest) => match rest.split_once('/') {
                Some(("records", text)) => Place::Record(text),
                Some(("replicas", id)) if !id.is_empty() && !id.contains('/') => Place::Replica(id),
                _ => Place::Foreign,
            },
            None => Place::Foreign,
        }
    }
}

/// The end of the range of all keys that begin with a text.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes are ASCII, so the last byte can always be raised.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let keys = Keys::new("/a/b").unwrap();
        let place = |key: &'static str| keys.place(key.as_bytes());
        assert_eq!(place("/a/b/v1/records/sessions/x"), Place::Record("sessions/x"));
        assert_eq!(place("/a/b/v1/replicas/r1"), Place::Replica("r1"));
        assert_eq!(place("/a/b/v1/meta/epoch"), Place::Epoch);
        assert_eq!(keys.place(keys.joins().as_bytes()), Place::Joins);
        for foreign in ["/a/b/v1/replicas/", "/a/b/v1/replicas/a/b", "/a/b/v1/meta/x", "/a/b/v1/", "/a/b/v1/x/y"] {
            assert_eq!(place(foreign), Place::Foreign, "{foreign}");
        }
        assert_eq!(keys.slot_owner(b"/a/b/writes/r1/3"), Some("r1"));
        for bad in ["", "a", "/a/", "/a b", "/"] {
            assert!(Keys::new(bad).is_err(), "{bad}");
        }
    }
}
