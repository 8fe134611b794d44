//! `apply`: puts what a file describes.
//!
//! Documents are those of the REST API with their `kind` beside the other fields, as `get -o yaml` prints them; several
//! stand in one file with `---` between them, in a list, or in a document's `items`.

use super::Context;
use super::rows::kind_name;
use super::wait::write;
use crate::cli::ApplyArgs;
use crate::output::{Cell, Style};
use anyhow::{Context as _, anyhow, bail};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ObjectDocument, ServiceDocument};
use fingerpost_client::{Error, HttpRegistry, Operation, Registry};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

/// As many as the registry applies all or none.
const ATOMIC: usize = 100;
/// As many as the registry takes in one call.
const MOST: usize = 10_000;

pub(super) async fn apply(context: &Context, args: ApplyArgs) -> anyhow::Result<()> {
    let name = super::file_name(&args.file);
    let text = read(&args.file).with_context(|| format!("can't read {name}"))?;
    let objects = parse(&text, &args.namespace).with_context(|| format!("in {name}"))?;
    match objects.len() {
        0 => bail!("{name} describes nothing"),
        count if count > MOST => bail!("{name} describes {count} objects, and at most {MOST} go at once: split it"),
        _ => {}
    }
    let operations: Vec<Operation> = objects.iter().cloned().map(Operation::Put).collect();
    let apply = async |registry: HttpRegistry| {
        if operations.len() <= ATOMIC {
            registry.batch(&args.source, operations).await
        } else {
            registry.bulk(&args.source, operations).await
        }
    };
    let applied = write(context, args.wait, apply).await;
    let (reply, seen) = applied.map_err(|error| match refused(&error, &objects) {
        Some(object) => anyhow!(error).context(format!("can't apply {name}: {}", describe(object))),
        None => anyhow!(error).context(format!("can't apply {name}")),
    })?;

    let mut failed = 0;
    for (object, result) in objects.iter().zip(&reply.results) {
        if let Err(error) = result {
            failed += 1;
            let word = Cell::styled("failed", Style::Bad).paint(context.output.colour);
            context.output.note(&format!("{word} {}: {error}", describe(object)));
        }
    }
    let applied = objects.len() - failed;
    let summary = serde_json::json!({ "revision": reply.revision, "applied": applied, "failed": failed });
    context.output.value(&summary, || {
        format!("applied {} at {}\n", super::status::counted(applied as u64, "object"), reply.revision)
    })?;
    if failed > 0 {
        bail!("{failed} of {} objects could not be applied", objects.len());
    }
    seen.tell(&context.output)
}

/// The object that a refusal is about.
fn refused<'a>(error: &Error, objects: &'a [ObjectDocument]) -> Option<&'a ObjectDocument> {
    let Error::Invalid { pointer: Some(pointer), .. } = error else {
        return None;
    };
    let number = pointer.strip_prefix("/operations/")?.split('/').next()?;
    objects.get(number.parse::<usize>().ok()?)
}

fn read(path: &Path) -> std::io::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

/// The objects in a text of YAML (of which JSON is a part), each checked for fields that nobody knows: a misspelt one
/// would otherwise be lost without a word.
fn parse(text: &str, namespace: &str) -> anyhow::Result<Vec<ObjectDocument>> {
    let mut values = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let number = values.len() + 1;
        let value = Value::deserialize(document).with_context(|| format!("document {number} can't be read"))?;
        flatten(value, &mut values);
    }
    values
        .into_iter()
        .enumerate()
        .map(|(n, value)| object(value, namespace).with_context(|| format!("object {}", n + 1)))
        .collect()
}

fn flatten(value: Value, values: &mut Vec<Value>) {
    match value {
        // An empty document, as before a leading `---`.
        Value::Null => {}
        Value::Array(items) => items.into_iter().for_each(|item| flatten(item, values)),
        Value::Object(mut list) if !list.contains_key("kind") && list.contains_key("items") => {
            flatten(list.remove("items").unwrap_or_default(), values);
        }
        value => values.push(value),
    }
}

fn object(value: Value, namespace: &str) -> anyhow::Result<ObjectDocument> {
    let Value::Object(mut fields) = value else { bail!("is no mapping of fields to values") };
    let kind = match fields.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(other) => bail!("kind is {other}: write `namespace`, `service` or `instance`"),
        None => bail!("kind is missing: write `namespace`, `service` or `instance`"),
    };
    match kind.to_ascii_lowercase().as_str() {
        "namespace" => {
            let namespace: NamespaceDocument = document(fields)?;
            named(&namespace.name, "name")?;
            Ok(ObjectDocument::Namespace(namespace))
        }
        "service" => {
            let mut service: ServiceDocument = document(fields)?;
            named(&service.name, "name")?;
            service.namespace.get_or_insert_with(|| namespace.to_owned());
            Ok(ObjectDocument::Service(service))
        }
        "instance" => {
            let mut instance: InstanceDocument = document(fields)?;
            named(&instance.id, "id")?;
            instance.namespace.get_or_insert_with(|| namespace.to_owned());
            Ok(ObjectDocument::Instance(Box::new(instance)))
        }
        _ => bail!("kind is `{kind}`: write `namespace`, `service` or `instance`"),
    }
}

fn named(field: &Option<String>, name: &str) -> anyhow::Result<()> {
    if field.is_none() {
        bail!("{name} is missing");
    }
    Ok(())
}

fn document<T: DeserializeOwned>(fields: Map<String, Value>) -> anyhow::Result<T> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let value = Value::Object(fields);
    let tracked = serde_path_to_error::Deserializer::new(&value, &mut track);
    let read = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    let read = read.map_err(|error| match track.path().to_string().as_str() {
        "." => anyhow!("{error}"),
        path => anyhow!("{path}: {error}"),
    })?;
    match unknown.first() {
        Some(field) => bail!("`{field}` is no field that this version knows"),
        None => Ok(read),
    }
}

fn describe(object: &ObjectDocument) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let name = match object {
        ObjectDocument::Namespace(namespace) => part(&namespace.name),
        ObjectDocument::Service(service) => format!("{}/{}", part(&service.namespace), part(&service.name)),
        ObjectDocument::Instance(instance) => {
            format!("{}/{}/{}", part(&instance.namespace), part(&instance.service), part(&instance.id))
        }
    };
    format!("{} {name}", kind_name(object.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_items() {
        let yaml = "---\nkind: Service\nname: web\nports: [{name: http, port: 80}]\n---\n\
                    - {kind: namespace, name: prod}\n- {kind: instance, namespace: prod, id: a, addresses: [10.0.0.1]}\n\
                    ---\nitems:\n- kind: namespace\n  name: test\n";
        let objects = parse(yaml, "default").unwrap();
        let names: Vec<String> = objects.iter().map(describe).collect();
        assert_eq!(names, ["service default/web", "namespace prod", "instance prod/-/a", "namespace test"]);
        let json = r#"{"kind":"service","namespace":"prod","name":"web","type":"ClusterIP","clusterIPs":["10.0.0.1"]}"#;
        assert_eq!(parse(json, "default").unwrap().len(), 1);
        assert!(parse("", "default").unwrap().is_empty());
    }

    #[test]
    fn faults_name_the_object_and_the_field() {
        let fault = |text: &str| format!("{:#}", parse(text, "default").unwrap_err());
        assert!(fault("kind: pod\nname: a").contains("`pod`"));
        assert!(fault("name: a").contains("kind is missing"));
        assert!(fault("kind: service").contains("name is missing"));
        let text = fault("kind: namespace\nname: a\n---\nkind: instance\nid: b\nadresses: [10.0.0.1]");
        assert!(text.contains("object 2") && text.contains("`adresses`"), "{text}");
        let text = fault("kind: service\nname: a\nports: [{port: 80}, {port: x}]");
        assert!(text.contains("ports[1].port"), "{text}");
        assert!(fault("kind: [").contains("document 1"));
    }
}
