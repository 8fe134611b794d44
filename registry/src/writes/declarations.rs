//! Writes of namespaces and services.

use super::identity::{namespace_key, same, same_source, service_key};
use super::{Guard, WriteError, Writer, Written};
use crate::access::Acting;
use crate::store::{Action, Condition, Expect, Operation};
use crate::validate;
use fingerpost_catalog::document::{NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{Key, Record};
use std::sync::Arc;

impl Writer {
    /// Creates or replaces a namespace's declaration.
    pub async fn put_namespace(
        &self,
        acting: &Acting,
        name: &str,
        document: NamespaceDocument,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        self.heard(acting.source());
        same("/name", name, document.name.as_ref())?;
        same_source(acting.source(), document.source.as_ref())?;
        let key = namespace_key(acting, name)?;
        let record = Record::Namespace(validate::namespace(&document)?);
        self.put_declaration(key, record, guard).await
    }

    /// Creates or replaces a service's declaration.
    pub async fn put_service(
        &self,
        acting: &Acting,
        namespace: &str,
        name: &str,
        document: ServiceDocument,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        self.heard(acting.source());
        same("/namespace", namespace, document.namespace.as_ref())?;
        same("/name", name, document.name.as_ref())?;
        same_source(acting.source(), document.source.as_ref())?;
        let key = service_key(acting, namespace, name)?;
        let record = Record::Service(validate::service(document)?);
        self.put_declaration(key, record, guard).await
    }

    async fn put_declaration(&self, key: Key, record: Record, guard: Guard) -> Result<Written, WriteError> {
        let created = self.live.read().revision_of(&key).is_none();
        let conditions = self.guard(&key, guard)?;
        let operations = vec![Operation { key, action: Action::Put(Arc::new(record)) }];
        let committed = self.commit_guarded(operations, conditions, guard).await?;
        Ok(Written { position: committed.position, created, changed: committed.changed })
    }

    /// Removes a namespace's or service's declaration.
    pub async fn delete_declaration(&self, key: Key, guard: Guard) -> Result<Written, WriteError> {
        if let Key::Namespace { source, .. } | Key::Service { source, .. } = &key {
            self.heard(source);
        }
        let mut conditions = self.guard(&key, guard)?;
        conditions.push(Condition { key: key.clone(), expect: Expect::Present });
        let operations = vec![Operation { key, action: Action::Delete }];
        let committed = self.commit_guarded(operations, conditions, guard).await?;
        Ok(Written { position: committed.position, created: false, changed: committed.changed })
    }
}
