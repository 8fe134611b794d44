//! Writes that return once they are visible, and reads of what is at least so fresh.

use super::HttpRegistry;
use super::call::{Call, Reply};
use crate::Result;
use fingerpost_catalog::Position;
use fingerpost_catalog::document::VisibilityDocument;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest time for which a registry waits.
const LONGEST: Duration = Duration::from_secs(60);

/// What the writes of a handle wait for, and what became of the last one.
#[derive(Debug)]
pub(super) struct Waiting {
    within: Duration,
    seen: Mutex<Option<VisibilityDocument>>,
}

impl Waiting {
    /// The call, told to wait; it may take so much longer.
    pub(super) fn apply(&self, call: Call, timeout: Duration) -> Call {
        let timeout = call.timeout.unwrap_or(timeout) + self.within;
        call.query("wait", Some("visible"))
            .query("timeout", Some(format!("{}ms", self.within.as_millis())))
            .timeout(timeout)
    }

    pub(super) fn note(&self, reply: &Reply) -> Result<()> {
        let visibility = reply.json()?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(visibility);
        Ok(())
    }
}

impl HttpRegistry {
    /// Makes writes, each of which returns once all replicas of the registry and all that follow it (DNS servers, say) show it,
    /// or after `within`, at most 60 s. A write that is not visible by then is written all the same: the second half of what is
    /// returned says whether it is, and who was late. Of several writes, it is about the last one; that one includes those
    /// before it.
    ///
    /// Meant for writes of records; imports don't wait.
    ///
    /// ```no_run
    /// # use fingerpost_client::{Guard, HttpRegistry, Registry, catalog::{Source, document::InstanceDocument}};
    /// # use std::time::Duration;
    /// # async fn example(registry: HttpRegistry, web: InstanceDocument) -> fingerpost_client::Result<()> {
    /// let register = async |registry: HttpRegistry| registry.put_instance(&Source::api(), &web, Guard::None).await;
    /// let (_, seen) = registry.visibly(Duration::from_secs(5), register).await?;
    /// if !seen.visible {
    ///     eprintln!("registered, but not everybody answers with it yet: {:?}", seen.lagging);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As of the write itself. That it did not become visible in time is none.
    pub async fn visibly<T>(
        &self,
        within: Duration,
        write: impl AsyncFnOnce(Self) -> Result<T>,
    ) -> Result<(T, VisibilityDocument)> {
        let waiting = Arc::new(Waiting { within: within.min(LONGEST), seen: Mutex::default() });
        let value = write(Self { waiting: Some(Arc::clone(&waiting)), ..self.clone() }).await?;
        let seen = waiting.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Where nothing was written, there is nothing that somebody could not see.
        let seen = seen.unwrap_or_else(|| VisibilityDocument { visible: true, ..VisibilityDocument::default() });
        Ok((value, seen))
    }

    /// The same registry, whose reads of single objects, lists and histories show at least a position: what another
    /// registry's reply named, say. The registry waits for it, at most 5 s; then the error is
    /// [`Behind`](crate::Error::Behind). A list that asks for a position of its own keeps to that.
    ///
    /// ```no_run
    /// # use fingerpost_client::{Guard, HttpRegistry, Registry, catalog::Source};
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// # let web = fingerpost_client::catalog::document::ServiceDocument::default();
    /// let written = registry.put_service(&Source::api(), &web, Guard::None).await?;
    /// // Elsewhere, of whichever replica:
    /// let elsewhere = HttpRegistry::connect("http://registry-2.example:8053")?;
    /// let seen = elsewhere.at_least(written.revision).get_service("prod", "web").await?;
    /// # let _ = seen;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn at_least(&self, position: Position) -> Self {
        Self { at_least: Some(position), ..self.clone() }
    }
}
