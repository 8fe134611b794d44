//! Why a pod's name by address answers, or not.

use super::{Explanation, Lookup, declared};
use crate::config::Pods;
use crate::index::Index;
use crate::pods;
use fingerpost_catalog::InstanceView;
use std::sync::Arc;

impl Explanation {
    pub(super) fn pod(&mut self, index: &Index, label: &str, namespace: &str, lookup: &dyn Lookup) {
        let mode = index.config.pods;
        if mode == Pods::Disabled {
            return self.step(false, "This server answers no names of pods (`--pods disabled`).");
        }
        match lookup.namespace(namespace) {
            Some(view) => self.step(true, format!("Namespace `{namespace}` exists ({}).", declared(&view.sources))),
            None => return self.step(false, format!("Namespace `{namespace}` does not exist.")),
        }
        let Some(address) = pods::address(label.as_bytes()) else {
            let text = format!("`{label}` is no address with dashes, as in `10-1-2-3` or `fd00--1`.");
            return self.step(false, text);
        };
        let holders = lookup.at(address);
        let of_pods: Vec<&Arc<InstanceView>> =
            holders.iter().filter(|view| pods::addresses(view).contains(&address)).collect();
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            of_pods.into_iter().partition(|view| &*view.key.namespace == namespace);
        let who = match (here.first(), elsewhere.first(), holders.first()) {
            (Some(pod), ..) => format!("{address} is a pod's in this namespace ({}).", described(pod)),
            (None, Some(pod), _) => {
                format!("{address} is a pod's in namespace `{}` ({}).", pod.key.namespace, described(pod))
            }
            (None, None, Some(view)) => format!("{address} belongs to {}, which is no pod that stays.", view.key),
            (None, None, None) => format!("No pod is known that has {address}."),
        };
        match mode {
            Pods::Insecure => {
                let text =
                    format!("The name says its address, {address}, and is answered without a look whose that is");
                self.step(true, format!("{text} (`--pods insecure`). {who}"));
            }
            _ => self.step(
                !here.is_empty(),
                format!("Only pods that are known are answered, in their namespace (`--pods verified`). {who}"),
            ),
        }
    }
}

fn described(view: &InstanceView) -> String {
    let name = view.instance.pod.as_ref().map_or(&*view.key.id, |pod| pod.name.as_str());
    format!("{name}, says {}", view.key.source)
}
