//! What the store knows of itself: the epoch, the schema and the replicas' secret.

use super::endpoints::{Endpoints, Pause, REQUEST};
use super::failure::{Failure, Outcome};
use super::keys::Keys;
use crate::members::Secret;
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use fingerpost_catalog::Epoch;
use tokio::time::Instant;

/// The stored form of the epoch.
#[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredEpoch {
    /// 16 hexadecimal digits.
    epoch: String,
    /// The etcd cluster on which it was made, likewise: copied to another cluster, the numbers are others.
    cluster_id: String,
}

impl StoredEpoch {
    fn new(epoch: Epoch, cluster: u64) -> Self {
        Self { epoch: epoch.to_string(), cluster_id: format!("{cluster:016x}") }
    }

    pub(super) fn read(value: &[u8]) -> Option<(Epoch, u64)> {
        let stored: Self = serde_json::from_slice(value).ok()?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        Some((Epoch(number(&stored.epoch)?), number(&stored.cluster_id)?))
    }

    fn write(epoch: Epoch, cluster: u64) -> Vec<u8> {
        // Two strings always serialize.
        serde_json::to_vec(&Self::new(epoch, cluster)).unwrap_or_default()
    }
}

/// What a linearizable look found.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    /// The epoch, if it could be read; the cluster that it was made on.
    pub(super) epoch: Option<(Epoch, u64)>,
    /// The revision of its key, 0 where there is none.
    pub(super) epoch_at: i64,
    /// The schema, if there is one.
    pub(super) schema: Option<u32>,
    pub(super) schema_at: i64,
    pub(super) secret: Option<Secret>,
    secret_at: i64,
    /// The cluster that answered.
    pub(super) cluster: u64,
    /// The latest revision.
    pub(super) revision: u64,
}

fn found(response: &TxnOpResponse) -> Option<&KeyValue> {
    match response {
        TxnOpResponse::Get(get) => get.kvs().first(),
        _ => None,
    }
}

impl Meta {
    fn from(response: &TxnResponse) -> Result<Self, Failure> {
        let header = response.header().ok_or_else(|| Failure::other("an answer without a header"))?;
        let responses = response.op_responses();
        let [epoch, schema, secret] = [0, 1, 2].map(|place| responses.get(place).and_then(found));
        Ok(Self {
            epoch: epoch.and_then(|kv| StoredEpoch::read(kv.value())),
            epoch_at: epoch.map_or(0, KeyValue::mod_revision),
            schema: schema.and_then(|kv| serde_json::from_slice(kv.value()).ok()),
            schema_at: schema.map_or(0, KeyValue::mod_revision),
            secret: secret.and_then(|kv| read_secret(kv.value())),
            secret_at: secret.map_or(0, KeyValue::mod_revision),
            cluster: header.cluster_id(),
            revision: header.revision().unsigned_abs(),
        })
    }
}

pub(super) fn read_secret(value: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(value).ok()?;
    let byte = |place: usize| text.get(place..place + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.filter(|bytes| bytes.len() >= 16).map(|bytes| Secret(bytes.into()))
}

/// Looks at the latest state.
pub(super) async fn read(endpoints: &Endpoints, keys: &Keys, until: Instant) -> Result<Meta, Failure> {
    let gets = [keys.epoch(), keys.schema(), keys.secret()].map(|key| TxnOp::get(key, None));
    let txn = Txn::new().and_then(gets);
    let request = |mut client: etcd_client::Client| {
        let txn = txn.clone();
        async move { client.txn(txn).await }
    };
    Meta::from(&endpoints.repeat(REQUEST, until, request).await?)
}

/// Writes what is missing: the first replica of all does so, and whoever finds a part of it deleted.
pub(super) async fn complete(endpoints: &Endpoints, keys: &Keys, schema: u32, until: Instant) -> Result<Meta, Failure> {
    let mut pause = Pause::new();
    loop {
        let meta = read(endpoints, keys, until).await?;
        let mut missing = Vec::new();
        if meta.epoch.is_none() {
            missing.push((keys.epoch(), meta.epoch_at, StoredEpoch::write(Epoch(rand::random()), meta.cluster)));
        }
        if meta.schema_at == 0 {
            missing.push((keys.schema(), 0, schema.to_string().into_bytes()));
        }
        if meta.secret.is_none() {
            let secret: [u8; 32] = rand::random();
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            missing.push((keys.secret(), meta.secret_at, hex.into_bytes()));
        }
        if missing.is_empty() {
            return Ok(meta);
        }
        let unchanged: Vec<Compare> =
            missing.iter().map(|(key, at, _)| Compare::mod_revision(key.as_str(), CompareOp::Equal, *at)).collect();
        let puts: Vec<TxnOp> = missing.into_iter().map(|(key, _, value)| TxnOp::put(key, value, None)).collect();
        put(endpoints, unchanged, puts, until, &mut pause).await?;
    }
}

/// Begins another epoch, unless somebody else was faster.
pub(super) async fn renew(endpoints: &Endpoints, keys: &Keys, meta: &Meta, until: Instant) -> Result<(), Failure> {
    let unchanged = vec![Compare::mod_revision(keys.epoch(), CompareOp::Equal, meta.epoch_at)];
    let value = StoredEpoch::write(Epoch(rand::random()), meta.cluster);
    put(endpoints, unchanged, vec![TxnOp::put(keys.epoch(), value, None)], until, &mut Pause::new()).await
}

/// Writes if nothing has changed; whether it did is seen by the next look. A lost answer does no harm for that reason.
async fn put(
    endpoints: &Endpoints,
    unchanged: Vec<Compare>,
    puts: Vec<TxnOp>,
    until: Instant,
    pause: &mut Pause,
) -> Result<(), Failure> {
    let txn = Txn::new().when(unchanged).and_then(puts);
    match endpoints.once(REQUEST, |mut client| async move { client.txn(txn).await }).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.outcome == Outcome::Unknown && Instant::now() < until => {
            pause.wait().await;
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}
