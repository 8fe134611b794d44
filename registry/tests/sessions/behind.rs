//! Writes through a replica that does not come to show what it wrote: they are done whole all the same.

use crate::world::{Node, sleep};
use fingerpost_catalog::document::{InstanceDocument, ServiceDocument};
use fingerpost_catalog::{InstanceKey, Key, Position, SessionState, Source};
use fingerpost_registry::access::Caller;
use fingerpost_registry::sources::{Removal, SourceOptions, Sources};
use fingerpost_registry::store::{Action, Commit, Operation, Store};
use fingerpost_registry::writes::{Guard, WriteError};
use std::sync::Arc;

fn key(source: &Source, id: &str) -> InstanceKey {
    InstanceKey { namespace: "prod".into(), service: Some("web".into()), source: source.clone(), id: id.into() }
}

/// It is not shown yet, and is once the replica has caught up.
async fn is_late(node: &Node, position: Position) {
    assert!(matches!(node.writer.shown(position).await, Err(WriteError::NotVisible { .. })));
    node.store.paused.send_replace(false);
    node.writer.shown(position).await.expect("it has caught up");
}

#[tokio::test(start_paused = true)]
async fn a_source_is_removed_whole() {
    let node = Node::alone().await;
    let source: Source = "api/old".parse().unwrap();
    let acting = Caller::anonymous().act_as(source.clone()).unwrap();
    let put = node.writer.put_service(&acting, "prod", "web", ServiceDocument::default(), Guard::None).await;
    put.expect("put");
    for id in ["a", "b"] {
        let document = InstanceDocument { addresses: vec!["10.0.0.1".parse().unwrap()], ..InstanceDocument::default() };
        node.writer.put_instance(&acting, key(&source, id), document, Guard::None).await.expect("put");
    }
    let store = Arc::clone(&node.store) as Arc<dyn Store>;
    let sources = Sources::new(store, Arc::clone(&node.live), SourceOptions::default());

    node.store.paused.send_replace(true);
    let (removed, position) = sources.remove(&node.writer, &source, Removal::All).await.expect("removed");
    assert_eq!((removed.instances, removed.services), (2, 1));
    for id in ["a", "b"] {
        assert!(node.shared.record(&Key::Instance(key(&source, id))).is_none(), "{id}");
    }
    let service = Key::Service { namespace: "prod".into(), name: "web".into(), source };
    assert!(node.shared.record(&service).is_none());
    is_late(&node, position).await;
}

#[tokio::test(start_paused = true)]
async fn a_set_is_replaced_whole_where_something_was_left_over() {
    let node = Node::alone().await;
    let source: Source = "api/team".parse().unwrap();
    let acting = Caller::anonymous().act_as(source.clone()).unwrap();
    let set = |ids: std::ops::Range<u8>| -> Vec<InstanceDocument> {
        ids.map(|n| InstanceDocument {
            id: Some(format!("i{n}")),
            addresses: vec![[10, 0, 0, n].into()],
            ..InstanceDocument::default()
        })
        .collect()
    };
    node.writer.replace_instances(&acting, "prod", "web", set(0..3)).await.expect("replaced");
    let head = Position::new(node.live.epoch(), node.shared.head());
    node.writer.shown(head).await.expect("shown");
    // A drain that stayed behind when its instance went.
    node.writer.drain(key(&source, "i1"), "", Guard::None).await.expect("drained");
    let gone = Operation { key: Key::Instance(key(&source, "i1")), action: Action::Delete };
    let gone = Commit { operations: vec![gone], ..Commit::default() };
    let gone = node.store.commit(gone).await.expect("removed");
    node.writer.shown(gone.position).await.expect("shown");

    node.store.paused.send_replace(true);
    let (replaced, position) =
        node.writer.replace_instances(&acting, "prod", "web", set(1..5)).await.expect("replaced");
    assert_eq!((replaced.added, replaced.removed), (3, 1));
    assert!(node.shared.record(&Key::Instance(key(&source, "i1"))).is_some());
    assert!(node.shared.record(&Key::Drain(key(&source, "i1"))).is_none());
    is_late(&node, position).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_ended_has_ended() {
    let node = Node::alone().await;
    let id = node.create(15, 30).await;
    node.put("api", "a", &id).await.expect("put");
    node.store.paused.send_replace(true);
    let (instances, position) = node.engine.end(&Caller::anonymous(), &id).await.expect("ended");
    assert_eq!(instances, 1);
    let ended = node.shared.session(&id).expect("its home removes it");
    assert_eq!((ended.state, ended.grace_seconds), (SessionState::Expired, 0));
    is_late(&node, position).await;
    sleep(10).await;
    assert!(node.shared.session(&id).is_none() && node.health("a").is_none(), "and did");
}
