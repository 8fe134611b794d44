//! Kubernetes' objects, of which only the fields that are needed are decoded.
//!
//! An API server also sends what is large and of no use here (`managedFields` is half of many objects), and what a newer
//! version or another writer put there that this one can't read. The former is passed over without being kept; an object
//! with the latter is counted and named, and the stream goes on.
//!
//! The numbers of the fields are those of Kubernetes' `generated.proto` files; what has no presence in JSON (`null`) has
//! none there.

use crate::protobuf;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

/// The annotation by which a Service is left out.
pub(crate) const EXCLUDE: &str = "fingerpost.io/exclude";
/// The label by which an EndpointSlice says whose it is.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is followed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Resources {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// EndpointSlices of `discovery.k8s.io/v1`.
    EndpointSlices,
    /// Pods.
    Pods,
}

impl Resources {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Namespaces, Self::Services, Self::EndpointSlices, Self::Pods];

    /// As Kubernetes writes it in URLs and rules.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Pods => "pods",
        }
    }

    /// Those whose list or watch, over all namespaces, a request asks for. An object of another kind may be called like them.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let is_of = |resources: &Self| path.strip_suffix(resources.plural()).is_some_and(|rest| rest.ends_with("/v1/"));
        Self::ALL.into_iter().find(is_of)
    }

    /// The API group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::EndpointSlices => "discovery.k8s.io",
            _ => "",
        }
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The metadata that is used.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "5")]
    pub(crate) uid: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "6")]
    pub(crate) resource_version: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(btree_map = "string, string", tag = "11")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    #[prost(btree_map = "string, string", tag = "12")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    #[prost(message, required, tag = "1")]
    pub(crate) metadata: Meta,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    #[prost(message, required, tag = "1")]
    pub(crate) metadata: Meta,
    #[prost(message, required, tag = "2")]
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "or_default")]
    #[prost(string, tag = "4")]
    pub(crate) service_type: String,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    #[prost(string, tag = "3")]
    pub(crate) cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    #[prost(string, repeated, tag = "18")]
    pub(crate) cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "10")]
    pub(crate) external_name: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(message, repeated, tag = "1")]
    pub(crate) ports: Vec<ServicePort>,
    #[serde(deserialize_with = "or_default")]
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    #[prost(bool, tag = "13")]
    pub(crate) publish_not_ready_addresses: bool,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "3")]
    pub(crate) port: i32,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "2")]
    pub(crate) protocol: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "6")]
    pub(crate) app_protocol: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    #[prost(message, required, tag = "1")]
    pub(crate) metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "4")]
    pub(crate) address_type: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(message, repeated, tag = "2")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "or_default")]
    #[prost(message, repeated, tag = "3")]
    pub(crate) ports: Vec<EndpointPort>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, repeated, tag = "1")]
    pub(crate) addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    #[prost(message, required, tag = "2")]
    pub(crate) conditions: EndpointConditions,
    #[prost(string, optional, tag = "3")]
    pub(crate) hostname: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(crate) node_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(crate) zone: Option<String>,
    #[prost(message, optional, tag = "4")]
    pub(crate) target_ref: Option<TargetRef>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointConditions {
    #[prost(bool, optional, tag = "1")]
    pub(crate) ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(crate) serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct TargetRef {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "4")]
    pub(crate) uid: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointPort {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// Absent: all ports, which can't be said in DNS.
    #[prost(int32, optional, tag = "3")]
    pub(crate) port: Option<i32>,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "2")]
    pub(crate) protocol: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "4")]
    pub(crate) app_protocol: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    #[prost(message, required, tag = "1")]
    pub(crate) metadata: Meta,
    #[prost(message, required, tag = "2")]
    pub(crate) spec: PodSpec,
    #[prost(message, required, tag = "3")]
    pub(crate) status: PodStatus,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "16")]
    pub(crate) hostname: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "17")]
    pub(crate) subdomain: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "1")]
    pub(crate) phase: String,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    #[prost(string, tag = "6")]
    pub(crate) pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    #[prost(message, repeated, tag = "12")]
    pub(crate) pod_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "1")]
    pub(crate) ip: String,
}

/// A kind of object that is followed.
pub(crate) trait Followed: DeserializeOwned + Message + Default + Clone + Debug + Send + Sync + 'static {
    const RESOURCES: Resources;
    const KIND: &'static str;
    const VERSION: &'static str = "v1";

    fn meta(&self) -> &Meta;

    fn into_item(self) -> Item;
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Namespace(Namespace),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Pod(Box<Pod>),
}

macro_rules! followed {
    ($type:ident, $resources:ident, $wrap:expr) => {
        impl Followed for $type {
            const RESOURCES: Resources = Resources::$resources;
            const KIND: &'static str = stringify!($type);

            fn meta(&self) -> &Meta {
                &self.metadata
            }

            fn into_item(self) -> Item {
                $wrap(self)
            }
        }
    };
}

followed!(Namespace, Namespaces, Item::Namespace);
followed!(Service, Services, |service| Item::Service(Box::new(service)));
followed!(EndpointSlice, EndpointSlices, |slice| Item::EndpointSlice(Box::new(slice)));
followed!(Pod, Pods, |pod| Item::Pod(Box::new(pod)));

/// An object as it came: read, or why it can't be.
#[derive(Clone, Debug)]
pub(crate) struct Received<T> {
    /// What kube needs of it: the name and the version.
    meta: ObjectMeta,
    pub(crate) object: Result<T, String>,
    of: PhantomData<T>,
}

impl<T> Received<T> {
    pub(crate) fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }
}

/// Of an object of any kind, what names it.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    #[prost(message, required, tag = "1")]
    pub(crate) metadata: NamedMeta,
}

/// What kube wants to know of an object.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NamedMeta {
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "or_default")]
    #[prost(string, tag = "6")]
    pub(crate) resource_version: String,
}

fn from_json<T: Followed>(raw: &RawValue) -> (Result<T, String>, NamedMeta) {
    let object = serde_json::from_str::<T>(raw.get()).map_err(|error| error.to_string());
    let meta = match &object {
        Ok(object) => {
            let Meta { name, namespace, resource_version, .. } = object.meta();
            NamedMeta { name: name.clone(), namespace: namespace.clone(), resource_version: resource_version.clone() }
        }
        Err(_) => serde_json::from_str::<Named>(raw.get()).unwrap_or_default().metadata,
    };
    (object, meta)
}

impl<'de, T: Followed> Deserialize<'de> for Received<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let (object, meta) = match serde_json::from_str::<protobuf::Carried>(raw.get()) {
            Ok(carried) => (carried.protobuf.read::<T>(), carried.metadata),
            Err(_) => from_json(&raw),
        };
        let NamedMeta { name, namespace, resource_version } = meta;
        let meta = ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            resource_version: Some(resource_version),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, object, of: PhantomData })
    }
}

impl<T: Followed> Resource for Received<T> {
    type DynamicType = ();
    type Scope = k8s_openapi::ClusterResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        T::RESOURCES.group().into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        T::VERSION.into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        T::RESOURCES.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_lists_are_about_a_kind() {
        assert_eq!(Resources::of_path("/api/v1/services"), Some(Resources::Services));
        let slices = Resources::of_path("/prefix/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(slices, Some(Resources::EndpointSlices));
        // A Lease that is called like a kind.
        assert_eq!(Resources::of_path("/apis/coordination.k8s.io/v1/namespaces/x/leases/services"), None);
    }

    #[test]
    fn nulls_and_unknown_fields_are_taken() {
        let slice = json!({"metadata": {"name": "a", "namespace": "b", "labels": null, "managedFields": [{"x": 1}]},
            "addressType": "IPv4", "endpoints": null, "ports": [{"name": null, "port": null, "appProtocol": "x"}]});
        let read: Received<EndpointSlice> = serde_json::from_value(slice).unwrap();
        assert_eq!((read.name(), read.namespace()), ("a", "b"));
        let slice = read.object.unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports[0].port.is_none() && slice.ports[0].name.is_empty());
    }

    #[test]
    fn one_that_cannot_be_read_still_says_its_name() {
        let text = r#"{"metadata":{"name":"a","namespace":"b","resourceVersion":"7"},"endpoints":"none"}"#;
        let read: Received<EndpointSlice> = serde_json::from_str(text).unwrap();
        assert_eq!((read.name(), read.namespace()), ("a", "b"));
        assert_eq!(kube::Resource::meta(&read).resource_version.as_deref(), Some("7"));
        assert!(read.object.unwrap_err().contains("none"));
    }
}
