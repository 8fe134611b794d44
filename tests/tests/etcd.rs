//! The etcd of the tests itself: what it promises, so that other tests can lean on it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use etcd_client::{Client, ConnectOptions};
use fingerpost_tests::etcd::{EtcdCluster, PASSWORD, Setup};
use fingerpost_tests::proxy::Proxy;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn three_members_survive_their_leader() {
    let mut cluster = EtcdCluster::three().await;
    cluster.client().await.put("/fingerpost/a", "1", None).await.unwrap();
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    let mut client = cluster.client_of(next).await.unwrap();
    assert_eq!(client.get("/fingerpost/a", None).await.unwrap().kvs()[0].value(), b"1");
    cluster.restart(leader);
    cluster.healthy().await;
    cluster.stop(leader);
    cluster.cont(leader);
    cluster.healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_passwords_are_asked_for() {
    let cluster = EtcdCluster::start(Setup { tls: true, auth: true, ..Setup::default() }).await;
    cluster.client().await.put("/elsewhere", "1", None).await.unwrap();
    assert!(cluster.etcdctl(&["get", "/elsewhere"]).contains('1'));
    let plain = cluster.endpoints()[0].replace("https", "http");
    let limited = ConnectOptions::new().with_timeout(Duration::from_secs(3)).with_user("fingerpost", PASSWORD);
    assert!(Client::connect([plain], Some(limited)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cuts_freezes_and_heals() {
    let cluster = EtcdCluster::one().await;
    let proxy = Proxy::start(cluster.address(0)).await;
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(1));
    let mut client = Client::connect([proxy.url()], Some(options)).await.unwrap();
    client.put("/fingerpost/a", "1", None).await.unwrap();
    proxy.freeze();
    assert!(client.get("/fingerpost/a", None).await.is_err());
    proxy.heal();
    client.get("/fingerpost/a", None).await.unwrap();
    proxy.cut();
    assert!(client.get("/fingerpost/a", None).await.is_err());
    proxy.heal();
    while client.get("/fingerpost/a", None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
