//! Asks the API server for protobuf, and hands kube what it can read.
//!
//! JSON costs both sides several times the CPU: for a large cluster's start, the server needs more of it to write the lists
//! than a name server to take them in. kube reads nothing else, though, so a layer under it turns what comes into JSON
//! that holds of an object its name, its version, and, as base64, the bytes as they came; from those its reader takes the
//! fields that it needs. A server, or whatever stands before it, may still answer in JSON: that goes through as it is.
//!
//! An answer begins with four bytes, and is an envelope that says what kind of object is in it; a watch is a sequence of
//! events, each behind its length, whose objects are in such envelopes
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>).

use crate::objects::{Named, NamedMeta, Namespace, Resources};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited, StreamBody};
use kube::client::Body;
use kube::core::response::{StatusDetails, StatusSummary};
use kube::core::watch::{Bookmark, BookmarkMeta};
use kube::core::{ListMeta, ObjectList, Status, TypeMeta, WatchEvent};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io;
use std::task::{Context, Poll};
use tokio_util::codec::LengthDelimitedCodec;
use tokio_util::io::StreamReader;
use tower::{Layer, Service};

/// What every answer begins with.
const MAGIC: &[u8] = b"k8s\0";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// The largest event of a watch, in bytes. etcd holds no object of a tenth of that.
const MAX_EVENT: usize = 32 << 20;
/// The largest page of a list, in bytes: 500 objects.
const MAX_PAGE: usize = 512 << 20;

type BoxError = Box<dyn Error + Send + Sync>;

/// An object on its way through kube.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) metadata: NamedMeta,
    pub(crate) protobuf: Encoded,
}

/// An object's bytes, in base64.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Encoded(String);

impl Encoded {
    fn new(bytes: &[u8]) -> Self {
        Self(BASE64_STANDARD_NO_PAD.encode(bytes))
    }

    /// The object, or why it can't be read.
    pub(crate) fn read<T: Message + Default>(&self) -> Result<T, String> {
        let bytes = BASE64_STANDARD_NO_PAD.decode(&self.0).map_err(|error| error.to_string())?;
        T::decode(&*bytes).map_err(|error| error.to_string())
    }
}

/// `runtime.Unknown`: an object of a kind that is said beside it.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, required, tag = "1")]
    of: Kind,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// `meta/v1.WatchEvent`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(string, tag = "1")]
    what: String,
    #[prost(message, required, tag = "2")]
    object: Extension,
}

/// `runtime.RawExtension`.
#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// A list of any kind. The objects are left as they are.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, required, tag = "1")]
    metadata: Page,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

/// `meta/v1.ListMeta`.
#[derive(Clone, PartialEq, Message)]
struct Page {
    #[prost(string, tag = "2")]
    resource_version: String,
    #[prost(string, tag = "3")]
    next: String,
    #[prost(int64, optional, tag = "4")]
    remaining: Option<i64>,
}

/// `meta/v1.Status`.
#[derive(Clone, PartialEq, Message)]
struct Failure {
    #[prost(string, tag = "2")]
    status: String,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(string, tag = "4")]
    reason: String,
    #[prost(message, optional, tag = "5")]
    details: Option<Details>,
    #[prost(int32, tag = "6")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(int32, tag = "5")]
    retry_after_seconds: i32,
}

fn invalid(error: impl Into<BoxError>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn read<T: Message + Default>(bytes: Bytes) -> io::Result<T> {
    T::decode(bytes).map_err(invalid)
}

fn open(mut bytes: Bytes) -> io::Result<(Kind, Bytes)> {
    if !bytes.starts_with(MAGIC) {
        return Err(invalid("an object that does not begin as protobuf of Kubernetes does"));
    }
    let Envelope { of, raw } = read(bytes.split_off(MAGIC.len()))?;
    Ok((of, raw))
}

fn carried(raw: Bytes) -> io::Result<Carried> {
    let protobuf = Encoded::new(&raw);
    let Named { metadata } = read(raw)?;
    Ok(Carried { metadata, protobuf })
}

fn status(raw: Bytes) -> io::Result<Status> {
    let failure: Failure = read(raw)?;
    let details = failure.details.map(|Details { name, group, kind, retry_after_seconds }| StatusDetails {
        name,
        group,
        kind,
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: retry_after_seconds.try_into().unwrap_or_default(),
    });
    Ok(Status {
        status: Some(if failure.status == "Success" { StatusSummary::Success } else { StatusSummary::Failure }),
        code: failure.code.try_into().unwrap_or_default(),
        message: failure.message,
        metadata: None,
        reason: failure.reason,
        details,
    })
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// An event of a watch as a line of JSON.
fn event(bytes: Bytes) -> io::Result<Bytes> {
    let Event { what, object } = read(bytes)?;
    let (Kind { api_version, kind }, raw) = open(object.raw)?;
    let event = match what.as_str() {
        "ADDED" => WatchEvent::Added(carried(raw)?),
        "MODIFIED" => WatchEvent::Modified(carried(raw)?),
        "DELETED" => WatchEvent::Deleted(carried(raw)?),
        "ERROR" => WatchEvent::Error(Box::new(status(raw)?)),
        "BOOKMARK" => {
            // Of every kind, the metadata is in the same place.
            let Namespace { metadata } = read(raw)?;
            let (resource_version, annotations) = (metadata.resource_version, metadata.annotations);
            let metadata = BookmarkMeta { resource_version, annotations };
            WatchEvent::Bookmark(Bookmark { types: TypeMeta { api_version, kind }, metadata })
        }
        other => return Err(invalid(format!("a watch says `{other}`, which is nothing known"))),
    };
    let mut line = json(&event)?;
    line.push(b'\n');
    Ok(line.into())
}

/// A whole answer as JSON.
fn answer(bytes: Bytes) -> io::Result<Bytes> {
    let (Kind { api_version, kind }, raw) = open(bytes)?;
    let text = if kind == "Status" {
        json(&status(raw)?)
    } else if kind.ends_with("List") {
        let List { metadata, items } = read(raw)?;
        let metadata = ListMeta {
            resource_version: Some(metadata.resource_version),
            continue_: Some(metadata.next).filter(|next| !next.is_empty()),
            remaining_item_count: metadata.remaining,
            ..ListMeta::default()
        };
        let items = items.into_iter().map(carried).collect::<io::Result<Vec<_>>>()?;
        json(&ObjectList { types: TypeMeta { api_version, kind }, metadata, items })
    } else {
        json(&carried(raw)?)
    };
    Ok(text?.into())
}

/// Keeps an error that says how a connection ended what it is: kube looks for that.
fn broken(error: BoxError) -> io::Error {
    match error.downcast::<io::Error>() {
        Ok(error) => *error,
        Err(error) => io::Error::other(error),
    }
}

fn boxed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> UnsyncBoxBody<Bytes, BoxError> {
    StreamBody::new(stream.map_ok(Frame::data).map_err(BoxError::from)).boxed_unsync()
}

/// The layer under kube.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protobuf;

impl<S> Layer<S> for Protobuf {
    type Service = Asking<S>;

    fn layer(&self, inner: S) -> Asking<S> {
        Asking { inner }
    }
}

/// Asks for protobuf where it is about objects that are followed.
#[derive(Clone)]
pub(crate) struct Asking<S> {
    inner: S,
}

impl<S, B> Service<Request<Body>> for Asking<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if Resources::of_path(request.uri().path()).is_some() {
            let accept = HeaderValue::from_static("application/vnd.kubernetes.protobuf, application/json");
            request.headers_mut().insert(ACCEPT, accept);
        }
        let response = self.inner.call(request);
        Box::pin(async move { Ok(readable(response.await?)) })
    }
}

/// An answer in JSON, whatever it came in.
fn readable<B>(response: Response<B>) -> Response<UnsyncBoxBody<Bytes, BoxError>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    let content = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content.starts_with(PROTOBUF) {
        return Response::from_parts(head, body.map_err(Into::into).boxed_unsync());
    }
    let body = if content.contains("stream=watch") {
        let bytes = StreamReader::new(body.into_data_stream().map_err(|error| broken(error.into())).boxed());
        let events = LengthDelimitedCodec::builder().max_frame_length(MAX_EVENT).new_read(bytes);
        boxed(events.map(|bytes| event(bytes?.freeze())))
    } else {
        boxed(futures_util::stream::once(async {
            let whole = Limited::new(body, MAX_PAGE).collect().await;
            answer(whole.map_err(broken)?.to_bytes())
        }))
    };
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Endpoint, EndpointSlice, Meta, Received};
    use proptest::prelude::*;

    fn slice(name: &str) -> EndpointSlice {
        let metadata =
            Meta { name: name.into(), namespace: "shop".into(), resource_version: "7".into(), ..Meta::default() };
        let endpoint =
            Endpoint { addresses: vec!["10.1.0.1".into()], hostname: Some(String::new()), ..Endpoint::default() };
        EndpointSlice { metadata, endpoints: vec![endpoint], ..EndpointSlice::default() }
    }

    fn enveloped(kind: &str, object: &impl Message) -> Bytes {
        let of = Kind { api_version: "discovery.k8s.io/v1".into(), kind: kind.into() };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(Envelope { of, raw: object.encode_to_vec().into() }.encode_to_vec());
        bytes.into()
    }

    fn framed(what: &str, object: Bytes) -> Vec<u8> {
        let event = Event { what: what.into(), object: Extension { raw: object } }.encode_to_vec();
        let mut bytes = (event.len() as u32).to_be_bytes().to_vec();
        bytes.extend(event);
        bytes
    }

    /// What kube gets to read, when `bytes` come in pieces.
    async fn through(content: &'static str, bytes: &[u8], piece: usize) -> Result<Bytes, BoxError> {
        let pieces: Vec<_> = bytes.chunks(piece).map(|piece| io::Result::Ok(Bytes::copy_from_slice(piece))).collect();
        let body = StreamBody::new(futures_util::stream::iter(pieces).map_ok(Frame::data));
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
        Ok(readable(response).into_body().collect().await?.to_bytes())
    }

    const WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

    #[tokio::test]
    async fn a_watch_arrives_whole_in_whatever_pieces() {
        let end = Namespace {
            metadata: Meta {
                resource_version: "9".into(),
                annotations: [("k8s.io/initial-events-end".to_owned(), "true".to_owned())].into(),
                ..Meta::default()
            },
        };
        let gone = Failure { status: "Failure".into(), reason: "Expired".into(), code: 410, ..Failure::default() };
        let mut bytes = framed("ADDED", enveloped("EndpointSlice", &slice("a")));
        bytes.extend(framed("DELETED", enveloped("EndpointSlice", &slice("b"))));
        bytes.extend(framed("BOOKMARK", enveloped("EndpointSlice", &end)));
        bytes.extend(framed("ERROR", enveloped("Status", &gone)));
        for piece in [1, 3, 1000] {
            let text = through(WATCH, &bytes, piece).await.unwrap();
            let events: Vec<WatchEvent<Received<EndpointSlice>>> =
                text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
            let [WatchEvent::Added(a), WatchEvent::Deleted(b), WatchEvent::Bookmark(mark), WatchEvent::Error(gone)] =
                &events[..]
            else {
                panic!("{events:?}");
            };
            assert_eq!(a.object.as_ref().unwrap(), &slice("a"));
            assert_eq!((b.name(), b.namespace()), ("b", "shop"));
            assert_eq!(mark.metadata.resource_version, "9");
            assert_eq!(mark.metadata.annotations["k8s.io/initial-events-end"], "true");
            assert_eq!((gone.code, gone.reason.as_str()), (410, "Expired"));
        }
        let cut = through(WATCH, &bytes[..bytes.len() - 1], 1000).await;
        assert!(cut.is_err(), "an event that was cut is no event");
    }

    #[tokio::test]
    async fn lists_and_refusals_are_read_and_json_is_left_alone() {
        let items = vec![slice("a").encode_to_vec().into(), Bytes::from_static(b"\x0a\x00\x12\x05")];
        let metadata = Page { resource_version: "8".into(), next: "more".into(), remaining: Some(3) };
        let list = enveloped("EndpointSliceList", &List { metadata: metadata.clone(), items: items[..1].to_vec() });
        let text = through(PROTOBUF, &list, 10).await.unwrap();
        let read: ObjectList<Received<EndpointSlice>> = serde_json::from_slice(&text).unwrap();
        assert_eq!(read.items[0].object.as_ref().unwrap(), &slice("a"));
        assert_eq!(read.metadata.continue_.as_deref(), Some("more"));
        let broken = enveloped("EndpointSliceList", &List { metadata, items });
        assert!(through(PROTOBUF, &broken, 10).await.is_err(), "half a list is none");

        let refused = Failure { status: "Failure".into(), message: "no".into(), code: 403, ..Failure::default() };
        let text = through(PROTOBUF, &enveloped("Status", &refused), 10).await.unwrap();
        let refused: Status = serde_json::from_slice(&text).unwrap();
        assert_eq!((refused.code, refused.message.as_str()), (403, "no"));

        let text = through("application/json", b"{}", 1).await.unwrap();
        assert_eq!(text, "{}");
    }

    #[test]
    fn one_that_cannot_be_read_still_says_its_name() {
        // Endpoints that are a number: the name is read, the object is not.
        let mut raw = Named { metadata: NamedMeta { name: "a".into(), ..NamedMeta::default() } }.encode_to_vec();
        raw.extend([0x10, 0x07]);
        let text = serde_json::to_string(&carried(raw.into()).unwrap()).unwrap();
        let read: Received<EndpointSlice> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.name(), "a");
        assert!(read.object.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let mut whole = if magic { MAGIC.to_vec() } else { Vec::new() };
            whole.extend(&bytes);
            let whole = Bytes::from(whole);
            let _ = (event(Bytes::from(bytes)), answer(whole.clone()), carried(whole));
        }
    }
}
