//! What only operators ask of a registry: its state, why a name answers as it does, and its whole content.

use super::HttpRegistry;
use super::call::{Call, origin, root_cause, unreachable};
use crate::status::{ImportReply, MigrateReply, RemovedSource, StatusDocument, VersionDocument};
use crate::{Error, Result};
use bytes::Bytes;
use fingerpost_catalog::Source;
use fingerpost_catalog::document::{ListDocument, SourceDocument};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Body, Method};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::time::Duration;

impl HttpRegistry {
    /// What the registry's process says of itself.
    ///
    /// ```no_run
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// for follower in registry.status().await?.followers {
    ///     println!("{} is {:?} behind", follower.id, follower.lag);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self) -> Result<StatusDocument> {
        self.get(Call::new(Method::GET, ["v1", "status"])).await
    }

    /// Raises the schema of the stored records to the newest that the registry knows, once all its replicas can read it.
    pub async fn migrate(&self) -> Result<MigrateReply> {
        // It has nothing to say, but says so: the registry takes no calls that any web page could make.
        let call = Call::new(Method::POST, ["v1", "migrate"]).json(&serde_json::json!({}))?;
        self.get(call).await
    }

    /// The registry's version.
    pub async fn version(&self) -> Result<VersionDocument> {
        self.get(Call::new(Method::GET, ["version"])).await
    }

    /// Why DNS answers a name as it does. The name is absolute, unless `from` names the address of a client, whose
    /// resolver completes it; the type is a DNS record type such as `A` or `SRV`, by default the registry's choice. The
    /// reply's type belongs to the DNS server's crate.
    pub async fn explain<T: DeserializeOwned>(
        &self,
        name: &str,
        record_type: Option<&str>,
        from: Option<IpAddr>,
    ) -> Result<T> {
        let call = Call::new(Method::GET, ["v1", "explain"]).query("name", Some(name)).query("type", record_type);
        self.get(call.query("from", from)).await
    }

    /// The sources that hold anything, and whether they still speak.
    ///
    /// ```no_run
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// for source in registry.sources().await?.items.iter().filter(|source| source.orphaned) {
    ///     let removed = registry.remove_source(&source.source).await?;
    ///     println!("{} left {} instances", source.source, removed.instances);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sources(&self) -> Result<ListDocument<SourceDocument>> {
        self.get(Call::new(Method::GET, ["v1", "sources"])).await
    }

    /// Removes all that a source declares. For one that never comes back.
    pub async fn remove_source(&self, source: &Source) -> Result<RemovedSource> {
        // Broken off in the middle, it goes on where it was; sources have any number of instances.
        let call = Call::new(Method::DELETE, ["v1", "sources", source.as_str()]);
        self.send(call.timeout(Duration::from_secs(120)).in_steps()).await?.json()
    }

    /// All records as JSON lines, in the portions in which they arrive. The stream has come to its end whole only if no
    /// item is an error.
    ///
    /// ```no_run
    /// # use futures_util::TryStreamExt;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// let mut lines = registry.export().await?;
    /// while let Some(chunk) = lines.try_next().await? {
    ///     println!("{} bytes", chunk.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn export(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let (response, url, _) = self.open(&Call::new(Method::GET, ["v1", "export"])).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, &url).await);
        }
        let idle = self.inner.options.idle_timeout;
        let chunks = stream::try_unfold((response, url), move |(mut response, url)| async move {
            let broken = |reason| Error::Broken { url: origin(&url), reason };
            match tokio::time::timeout(idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => Ok(Some((chunk, (response, url)))),
                Ok(Ok(None)) => Ok(None),
                Ok(Err(error)) => Err(broken(root_cause(&error))),
                Err(_) => Err(broken(format!("nothing came for {} seconds", idle.as_secs()))),
            }
        });
        Ok(chunks.boxed())
    }

    /// Writes the records of an export; with `replace`, they take the place of all that there is. Never repeated: where
    /// no reply comes, the outcome is unknown.
    ///
    /// An import takes as long as it takes; dropping the future gives it up.
    pub async fn import(
        &self,
        records: BoxStream<'static, std::io::Result<Bytes>>,
        replace: bool,
    ) -> Result<ImportReply> {
        let call = Call::new(Method::POST, ["v1", "import"]).query("replace", replace.then_some(true));
        let url = call.url(self.endpoint())?;
        let (client, authorization) = self.transport();
        let mut request = client.post(url.clone()).header(CONTENT_TYPE, "application/x-ndjson");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.body(Body::wrap_stream(records)).send().await.map_err(|error| {
            if error.is_connect() {
                unreachable(origin(&url), &error)
            } else {
                let reason = root_cause(&error);
                Error::UnknownOutcome { detail: format!("no complete reply from {}: {reason}", origin(&url)) }
            }
        })?;
        if !response.status().is_success() {
            return Err(self.refusal(response, &url).await);
        }
        let body = response.bytes().await.map_err(|error| Error::UnknownOutcome { detail: root_cause(&error) })?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::Unexpected { url: url.to_string(), detail: error.to_string() })
    }
}
