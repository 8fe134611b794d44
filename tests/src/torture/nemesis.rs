//! What goes wrong, one thing after another.

use super::World;
use crate::replicas::Replicas;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillEtcdLeader,
    StopEtcdLeader,
    KillAllOfEtcd,
    KillReplica,
    StopReplica,
    CutReplicaFromEtcd,
    FreezeReplicaFromEtcd,
    CutReplicaFromPeers,
    FreezeReplicaFromPeers,
    CompactUnderSlowFollower,
    MoveClock,
}

const ALL: [Fault; 11] = [
    Fault::KillEtcdLeader,
    Fault::KillReplica,
    Fault::FreezeReplicaFromEtcd,
    Fault::CutReplicaFromPeers,
    Fault::StopReplica,
    Fault::MoveClock,
    Fault::CutReplicaFromEtcd,
    Fault::StopEtcdLeader,
    Fault::CompactUnderSlowFollower,
    Fault::FreezeReplicaFromPeers,
    Fault::KillAllOfEtcd,
];

/// Lets things go wrong for so long; heals everything before it returns what it did. Each fault comes once before any
/// comes again, so that a short run has as many kinds as it has time for.
pub(super) async fn run(world: &World, cluster: &mut Replicas, time: Duration, mut rng: StdRng) -> Vec<String> {
    let end = Instant::now() + time;
    let mut done = Vec::new();
    let mut left: Vec<Fault> = Vec::new();
    tokio::time::sleep(Duration::from_secs(1)).await;
    while Instant::now() < end {
        if left.is_empty() {
            left = ALL.to_vec();
        }
        let fault = left.swap_remove(rng.random_range(0..left.len()));
        let n = rng.random_range(0..cluster.replicas.len());
        let long = Duration::from_millis(rng.random_range(1000..9000));
        let told = format!("{:.1} s: {fault:?} (replica {n}, for {long:?})", world.started.elapsed().as_secs_f64());
        eprintln!("{told}");
        strike(fault, cluster, n, long).await;
        done.push(told);
        for (n, replica) in cluster.replicas.iter_mut().enumerate() {
            if !replica.runs() {
                world.violation(format!("replica {n} ended by itself")).await;
                replica.start();
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..3000))).await;
    }
    for replica in &cluster.replicas {
        replica.set_clock(0);
    }
    done
}

async fn strike(fault: Fault, cluster: &mut Replicas, n: usize, long: Duration) {
    let wait = || tokio::time::sleep(long);
    match fault {
        Fault::KillEtcdLeader => {
            let leader = cluster.etcd.leader().await;
            cluster.etcd.kill(leader);
            wait().await;
            cluster.etcd.restart(leader);
            cluster.etcd.healthy().await;
        }
        Fault::StopEtcdLeader => {
            let leader = cluster.etcd.leader().await;
            cluster.etcd.stop(leader);
            wait().await;
            cluster.etcd.cont(leader);
            cluster.etcd.healthy().await;
        }
        Fault::KillAllOfEtcd => {
            for member in 0..cluster.etcd.endpoints().len() {
                cluster.etcd.kill(member);
            }
            wait().await;
            for member in 0..cluster.etcd.endpoints().len() {
                cluster.etcd.restart(member);
            }
            cluster.etcd.healthy().await;
        }
        Fault::KillReplica => {
            cluster.replicas[n].kill();
            wait().await;
            cluster.replicas[n].start();
            cluster.replicas[n].ready().await;
        }
        Fault::StopReplica => {
            cluster.replicas[n].stop();
            wait().await;
            cluster.replicas[n].cont();
        }
        Fault::CutReplicaFromEtcd => {
            cluster.replicas[n].cut_from_etcd();
            wait().await;
            cluster.replicas[n].heal();
        }
        Fault::FreezeReplicaFromEtcd => {
            cluster.replicas[n].freeze_etcd();
            wait().await;
            cluster.replicas[n].heal();
        }
        Fault::CutReplicaFromPeers => {
            cluster.replicas[n].from_peers.cut();
            wait().await;
            cluster.replicas[n].heal();
        }
        Fault::FreezeReplicaFromPeers => {
            cluster.replicas[n].from_peers.freeze();
            wait().await;
            cluster.replicas[n].heal();
        }
        Fault::CompactUnderSlowFollower => {
            cluster.replicas[n].freeze_etcd();
            wait().await;
            let mut client = cluster.etcd.client().await;
            let head = client.get("head", None).await.ok().and_then(|reply| Some(reply.header()?.revision()));
            if let Some(head) = head {
                // It may have been compacted so far already.
                let _ = client.compact(head, None).await;
            }
            cluster.replicas[n].heal();
        }
        Fault::MoveClock => {
            let seconds = if long.as_millis().is_multiple_of(2) { 86_400 } else { -86_400 };
            cluster.replicas[n].set_clock(seconds);
            wait().await;
        }
    }
}
