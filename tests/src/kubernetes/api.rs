//! Calls of the API server, object by object, in JSON.

use super::objects;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// A user's way to the API server.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    url: String,
    token: String,
}

/// The API server said no, or nothing.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The HTTP status; none where there was no answer.
    pub status: Option<u16>,
    /// What it said.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// So many calls are under way at a time where there are many to make.
const AT_ONCE: usize = 64;

impl Api {
    /// A way to the API server at `address`, whose certificate is signed by `ca`.
    pub fn new(address: SocketAddr, ca: &str, token: &str) -> Self {
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("certificate");
        let client =
            reqwest::Client::builder().tls_certs_only([ca]).timeout(Duration::from_secs(60)).build().expect("client");
        Self { client, url: format!("https://{address}"), token: token.to_owned() }
    }

    /// A call. The outer error is that there was no answer.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let none = |error: reqwest::Error| Refused { status: None, message: format!("{error:?}") };
        let response = request.send().await.map_err(none)?;
        let status = response.status();
        let text = response.text().await.map_err(none)?;
        if status.is_success() {
            return Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)));
        }
        let said = serde_json::from_str::<Value>(&text).ok();
        let message = said.and_then(|said| said["message"].as_str().map(str::to_owned)).unwrap_or(text);
        Err(Refused { status: Some(status.as_u16()), message })
    }

    /// GET of a path.
    pub async fn get(&self, path: &str) -> Result<Value, Refused> {
        self.call(Method::GET, path, None).await
    }

    /// Whether the API server says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let asked = tokio::time::timeout(Duration::from_secs(5), self.get("/readyz")).await;
        matches!(asked, Ok(Ok(_)))
    }

    /// Creates an object, or replaces it; as the API server has it then, or what it says against it.
    pub async fn try_put(&self, object: &Value) -> Result<Value, Refused> {
        // What was read is replaced, whatever became of it since.
        let was_read = object["metadata"]["uid"].is_string();
        let mut object = object.clone();
        for known_by_server in ["resourceVersion", "uid", "managedFields", "creationTimestamp", "generation"] {
            object["metadata"].as_object_mut().expect("metadata").remove(known_by_server);
        }
        let object = &object;
        if was_read {
            // An address that it has been given can't be given again, so it is not to be created.
            match self.replace(object).await {
                Err(Refused { status: Some(404), .. }) => {}
                Err(refused) if refused.message.contains("duplicate nodePort") => self.delete(object).await,
                other => return other,
            }
        }
        match self.call(Method::POST, &objects::folder(object), Some(object)).await {
            Err(Refused { status: Some(409), .. }) => match self.replace(object).await {
                // Of a Service's ports before, the API server gives one's port of the nodes to two of those after, and then
                // refuses what it has made. Created anew, it has no ports before.
                Err(refused) if refused.message.contains("duplicate nodePort") => {
                    self.delete(object).await;
                    self.call(Method::POST, &objects::folder(object), Some(object)).await
                }
                other => other,
            },
            other => other,
        }
    }

    /// Replaces an object that is there.
    pub async fn replace(&self, object: &Value) -> Result<Value, Refused> {
        self.call(Method::PUT, &objects::path(object), Some(object)).await
    }

    /// Creates an object, or replaces it; as the API server has it then.
    pub async fn put(&self, object: &Value) -> Value {
        patiently(object, || self.try_put(object)).await
    }

    /// Creates or replaces many objects, many at a time, in no order; as the API server has them then, in the order given.
    pub async fn put_all(&self, objects: &[Value]) -> Vec<Value> {
        let calls = objects.iter().map(|object| self.put(object));
        futures_util::stream::iter(calls).buffered(AT_ONCE).collect().await
    }

    /// Creates a pod, where it is not there yet, and writes its state, which is a call of its own.
    pub async fn put_pod(&self, pod: &Value) -> Value {
        let mut new = pod.clone();
        new["metadata"] = json!({"namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"],
            "labels": pod["metadata"]["labels"]});
        // Of a pod that is there, hardly anything but its state can change.
        let create = async || match self.call(Method::POST, &objects::folder(pod), Some(&new)).await {
            Err(Refused { status: Some(409), .. }) => self.get(&objects::path(pod)).await,
            other => other,
        };
        let mut with_status = patiently(pod, create).await;
        with_status["status"] = pod["status"].clone();
        let path = format!("{}/status", objects::path(pod));
        patiently(pod, async || self.call(Method::PUT, &path, Some(&with_status)).await).await
    }

    /// Removes an object at once; one that is not there is removed.
    pub async fn delete(&self, object: &Value) {
        let path = format!("{}?gracePeriodSeconds=0", objects::path(object));
        patiently(object, async || match self.call(Method::DELETE, &path, None).await {
            Err(Refused { status: Some(404), .. }) => Ok(Value::Null),
            other => other,
        })
        .await;
        if object["kind"] == "Namespace" {
            // Nobody empties it here, so nobody else says that it is empty.
            let mut namespace = object.clone();
            namespace["spec"] = json!({"finalizers": []});
            namespace["metadata"] = json!({"name": objects::name(object)});
            while self.get(&objects::path(object)).await.is_ok() {
                let path = format!("{}/finalize", objects::path(object));
                let _ = self.call(Method::PUT, &path, Some(&namespace)).await;
            }
        }
    }

    /// Removes many objects, many at a time, in no order.
    pub async fn delete_all(&self, objects: &[Value]) {
        let calls = objects.iter().map(|object| self.delete(object));
        futures_util::stream::iter(calls).buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// All objects at a path that lists them, page by page.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Refused> {
        let pages = futures_util::stream::try_unfold(Some(String::new()), |next| async move {
            let Some(token) = next else { return Ok(None) };
            let page = self.get(&format!("{path}?limit=500&continue={token}")).await?;
            let items = page["items"].as_array().cloned().unwrap_or_default();
            let next = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
            Ok::<_, Refused>(Some((items, next)))
        });
        Ok(pages.try_collect::<Vec<_>>().await?.concat())
    }
}

/// Makes a call again where the API server only needs a moment: it may hand out one port of the nodes twice, hears late that
/// a namespace is there, or is no longer the one that went, and gives up where the machine is busy.
async fn patiently(object: &Value, call: impl AsyncFn() -> Result<Value, Refused>) -> Value {
    let mut tries = 0;
    loop {
        match call().await {
            Ok(stored) => return stored,
            Err(refused) => {
                let reasons = ["nodePort", "being terminated", "namespaces \"", "Timeout"];
                let passes = reasons.iter().any(|why| refused.message.contains(why));
                assert!(passes && tries < 200, "{}: {refused}\n{object}", objects::path(object));
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
