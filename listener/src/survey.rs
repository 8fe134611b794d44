//! What a cluster has names for, read once, as its API server has it.
//!
//! For a comparison of name servers: nothing is left out here that a listener leaves out, or should not have, and nothing
//! merged, so that what went wrong between the API server and a registry shows.

use crate::connect::ConnectError;
use crate::objects::{self, EXCLUDE, Followed, Received};
use crate::trouble::{Reason, Trouble, root_cause};
use fingerpost_catalog::ServiceType;
use kube::api::ListParams;
use kube::{Api, Client, Config};
use std::net::IpAddr;

/// Objects in one page.
const PAGE: u32 = 500;

/// All of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Survey {
    /// The namespaces' names.
    pub namespaces: Vec<String>,
    /// The Services.
    pub services: Vec<SurveyedService>,
    /// The endpoints of all EndpointSlices that belong to a Service, ready or not.
    pub endpoints: Vec<SurveyedEndpoint>,
    /// The addresses of pods that have not ended, each with its namespace.
    pub pods: Vec<(String, IpAddr)>,
    /// Why pods are not known, where this caller may not list them.
    pub without_pods: Option<Trouble>,
    /// Objects that can't be read, by kind and name.
    pub unreadable: Vec<String>,
}

/// A Service.
#[derive(Clone, PartialEq, Debug)]
pub struct SurveyedService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its name answers with.
    pub service_type: ServiceType,
    /// Its own addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// The labels of its named ports, as in `_http._tcp`.
    pub ports: Vec<String>,
    /// Its annotation asks to be left out.
    pub excluded: bool,
}

/// An endpoint's address.
#[derive(Clone, PartialEq, Debug)]
pub struct SurveyedEndpoint {
    /// Its namespace.
    pub namespace: String,
    /// Its Service.
    pub service: String,
    /// The address.
    pub address: IpAddr,
    /// Its hostname.
    pub hostname: Option<String>,
    /// Its pod's name.
    pub pod: Option<String>,
    /// The labels of its named ports.
    pub ports: Vec<String>,
}

/// The cluster can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// No client can be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The API server does not tell.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

fn port_label(name: &str, protocol: &str) -> Option<String> {
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    (!name.is_empty()).then(|| format!("_{name}._{protocol}"))
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).map(|address: IpAddr| address.to_canonical()).collect()
}

impl Survey {
    /// Reads it. Without the right to list pods, those are left out.
    pub async fn read(config: Config) -> Result<Self, SurveyError> {
        let client = Client::try_from(config).map_err(|error| ConnectError::Client(root_cause(&error)))?;
        let mut survey = Self::default();
        survey.list(&client, Self::namespace).await?;
        survey.list(&client, Self::service).await?;
        survey.list(&client, Self::slice).await?;
        match survey.list(&client, Self::pod).await {
            Err(trouble) if trouble.reason == Reason::Forbidden => survey.without_pods = Some(trouble),
            read => read?,
        }
        Ok(survey)
    }

    async fn list<T: Followed>(&mut self, client: &Client, take: fn(&mut Self, T)) -> Result<(), Trouble> {
        let api = Api::<Received<T>>::all(client.clone());
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&parameters).await;
            let page = page.map_err(|error| Trouble::of_call(T::RESOURCES, "list", &error))?;
            for received in page.items {
                let name = format!("{} {}/{}", T::KIND, received.namespace(), received.name());
                match received.object {
                    Ok(object) => take(self, object),
                    Err(_) => self.unreadable.push(name),
                }
            }
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
                _ => return Ok(()),
            }
        }
    }

    fn namespace(&mut self, namespace: objects::Namespace) {
        self.namespaces.push(namespace.metadata.name);
    }

    fn service(&mut self, service: objects::Service) {
        let objects::Service { metadata, spec } = service;
        let service_type = match spec.service_type.as_str() {
            "ExternalName" => ServiceType::ExternalName,
            _ if spec.cluster_ip == "None" => ServiceType::Headless,
            _ => ServiceType::ClusterIP,
        };
        let texts = if spec.cluster_ips.is_empty() { vec![spec.cluster_ip] } else { spec.cluster_ips };
        self.services.push(SurveyedService {
            service_type,
            cluster_ips: addresses(&texts),
            ports: spec.ports.iter().filter_map(|port| port_label(&port.name, &port.protocol)).collect(),
            excluded: metadata.annotations.get(EXCLUDE).is_some_and(|text| text.trim() == "true"),
            namespace: metadata.namespace,
            name: metadata.name,
        });
    }

    fn slice(&mut self, slice: objects::EndpointSlice) {
        let Some(service) = slice.metadata.labels.get(objects::SERVICE_NAME) else { return };
        let ports: Vec<String> = slice.ports.iter().filter_map(|port| port_label(&port.name, &port.protocol)).collect();
        for endpoint in &slice.endpoints {
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
            self.endpoints.extend(addresses(&endpoint.addresses).into_iter().map(|address| SurveyedEndpoint {
                namespace: slice.metadata.namespace.clone(),
                service: service.clone(),
                address,
                hostname: endpoint.hostname.clone().filter(|hostname| !hostname.is_empty()),
                pod: pod.map(|target| target.name.clone()),
                ports: ports.clone(),
            }));
        }
    }

    fn pod(&mut self, pod: objects::Pod) {
        let status = pod.status;
        if matches!(status.phase.as_str(), "Succeeded" | "Failed" | "Unknown") {
            return;
        }
        let all = status.pod_ips.iter().map(|address| &address.ip).chain([&status.pod_ip]);
        let mut all = addresses(all);
        all.sort_unstable();
        all.dedup();
        self.pods.extend(all.into_iter().map(|address| (pod.metadata.namespace.clone(), address)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_taken_as_they_are() {
        let mut survey = Survey::default();
        let service = json!({"metadata": {"name": "web", "namespace": "prod", "annotations": {EXCLUDE: "true"}},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"],
                "ports": [{"name": "http", "port": 80}, {"port": 81}, {"name": "q", "port": 82, "protocol": "UDP"}]}});
        survey.service(serde_json::from_value(service).unwrap());
        let web = &survey.services[0];
        assert_eq!((web.service_type, web.cluster_ips.len(), web.excluded), (ServiceType::Headless, 0, true));
        assert_eq!(web.ports, ["_http._tcp", "_q._udp"]);
        let slice = json!({"metadata": {"namespace": "prod", "labels": {objects::SERVICE_NAME: "web"}},
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false},
                "targetRef": {"kind": "Pod", "name": "web-0"}}, {"addresses": ["a.example"]}],
            "ports": [{"name": "http", "port": 8080}]});
        survey.slice(serde_json::from_value(slice).unwrap());
        assert_eq!((survey.endpoints.len(), survey.endpoints[0].pod.as_deref()), (1, Some("web-0")));
        survey.slice(objects::EndpointSlice::default());
        let pod = json!({"metadata": {"namespace": "prod"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
        survey.pod(serde_json::from_value(pod).unwrap());
        assert_eq!((survey.endpoints.len(), survey.pods.len()), (1, 2));
    }
}
