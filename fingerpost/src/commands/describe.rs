//! `describe`: all that is known of one object.

use super::Context;
use super::get::table;
use super::rows::{self, tagged};
use super::target::{ServiceName, namespace_name};
use crate::cli::{DescribeArgs, KindArg};
use crate::output::{Cell, Fields, Output, Table};
use anyhow::{Context as _, anyhow, bail};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument, TransitionDocument};
use fingerpost_catalog::{Check, CheckPort, CheckType, InstanceKey, Labels, PartState};
use fingerpost_client::{Filter, ListRequest, Registry};
use serde::Serialize;

/// So many of an object's parts are shown to people; `get` lists them all.
const SHOWN: u32 = 100;

pub(super) async fn describe(context: &Context, args: DescribeArgs) -> anyhow::Result<()> {
    match args.kind {
        KindArg::Services => service(context, &args).await,
        KindArg::Instances => instance(context, &args).await,
        KindArg::Namespaces => namespace(context, &args).await,
    }
}

/// A first page for people.
fn first_page(namespace: &str, service: Option<&str>) -> ListRequest {
    let filter =
        Filter { namespace: Some(namespace.to_owned()), service: service.map(str::to_owned), ..Filter::default() };
    ListRequest { limit: Some(SHOWN), ..ListRequest::from(filter) }
}

async fn service(context: &Context, args: &DescribeArgs) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Description {
        service: ServiceDocument,
        declarations: Vec<ServiceDocument>,
        instances: Vec<InstanceDocument>,
    }
    let name = ServiceName::parse(&args.name, args.namespace.as_deref()).map_err(|error| anyhow!(error))?;
    let fault = || format!("can't describe service {name}");
    let registry = &context.registry;
    let service = registry.get_service(&name.namespace, &name.service).await.with_context(fault)?;
    let declarations = registry.get_declarations(&name.namespace, &name.service).await.with_context(fault)?.items;
    let page = registry.list_instances(first_page(&name.namespace, Some(&name.service))).await.with_context(fault)?;
    let more = page.continue_token.is_some();
    let description = Description { service, declarations, instances: page.items };
    context.output.value(&description, || {
        let Output { colour, .. } = context.output;
        let mut out = service_fields(&description.service).render(colour);
        // One declaration is what has just been shown.
        if description.declarations.len() > 1 {
            out.push_str("\nDeclarations, highest rank first:\n");
            for declaration in &description.declarations {
                let mut fields = service_fields(declaration);
                fields.add_some("Source", declaration.source.as_ref());
                out.push_str(&format!("\n{}", fields.render(colour)));
            }
        }
        if description.instances.is_empty() {
            out.push_str("\nNo instances.\n");
        } else {
            out.push_str(&format!("\n{}", table(&description.instances, context.output.wide()).render(colour)));
        }
        if more {
            out.push_str(&format!("… more than {SHOWN}: fingerpost get instances {name}\n"));
        }
        out
    })
}

fn service_fields(service: &ServiceDocument) -> Fields {
    let mut fields = Fields::default();
    fields.add("Name", Cell::option(service.name.as_ref()));
    fields.add("Namespace", Cell::option(service.namespace.as_ref()));
    fields.add("Type", Cell::new(rows::service_type(service.service_type)));
    if !service.cluster_ips.is_empty() {
        fields.add("Addresses", Cell::list(&service.cluster_ips));
    }
    fields.add_some("Alias of", service.external_name.as_ref());
    if !service.ports.is_empty() {
        fields.add("Ports", rows::ports(&service.ports));
    }
    add_labels(&mut fields, &service.labels);
    fields.add_some("TTL", service.ttl.map(|ttl| format!("{ttl} s")));
    fields.add_some("Publish not ready", service.publish_not_ready.then_some("yes"));
    fields.add_some("Answer unknown", service.answer_unknown.then_some("yes"));
    if service.all_critical == fingerpost_catalog::AllCritical::All {
        fields.add("All critical", Cell::new("answer all of them"));
    }
    add_checks(&mut fields, &service.checks);
    if !service.sources.is_empty() {
        fields.add("Sources", Cell::list(&service.sources));
    }
    fields.add_some("Revision", service.revision);
    fields
}

fn add_labels(fields: &mut Fields, labels: &Labels) {
    // A line each: there may be many.
    for (n, (key, value)) in labels.iter().enumerate() {
        fields.add(if n == 0 { "Labels" } else { "" }, Cell::new(format!("{key}={value}")));
    }
}

async fn instance(context: &Context, args: &DescribeArgs) -> anyhow::Result<()> {
    let name = args.instance().map_err(|error| anyhow!(error))?;
    let registry = &context.registry;
    let found = match &args.source {
        Some(source) => {
            let key = InstanceKey {
                namespace: name.namespace.as_str().into(),
                service: name.service.as_deref().map(Into::into),
                source: source.clone(),
                id: name.id.as_str().into(),
            };
            registry.get_instance(&key).await
        }
        None => registry.find_instance(&name.namespace, name.service.as_deref(), &name.id).await,
    };
    let instance = found.with_context(|| format!("can't describe instance {}", args.name))?;
    let history = match instance_key(&instance) {
        Some(key) => registry.history(&key).await.map(|history| history.items).unwrap_or_default(),
        None => Vec::new(),
    };
    // As JSON it is the instance alone, so that it can be applied again.
    context.output.value(&tagged(&instance), || {
        let mut out = instance_fields(&instance).render(context.output.colour);
        if !history.is_empty() {
            out.push_str(&format!("\n{}", transitions(&history).render(context.output.colour)));
        }
        out
    })
}

fn instance_key(instance: &InstanceDocument) -> Option<InstanceKey> {
    Some(InstanceKey {
        namespace: instance.namespace.as_deref()?.into(),
        service: instance.service.as_deref().map(Into::into),
        source: instance.source.clone()?,
        id: instance.id.as_deref()?.into(),
    })
}

/// The latest changes of health.
fn transitions(history: &[TransitionDocument]) -> Table {
    let mut table = Table::new(vec!["SINCE", "HEALTH", "BEFORE", "REASON"]);
    for TransitionDocument { at, from, to, reason } in history {
        table.push(vec![Cell::new(at.to_string()), rows::health(*to), Cell::new(from.as_str()), Cell::new(reason)]);
    }
    table
}

/// How a check finds out, in a line.
fn check_line(check: &Check) -> Cell {
    if check.check_type == CheckType::Ttl {
        return Cell::new(format!("{}: ttl, overdue after {} s", check.name, check.ttl()));
    }
    let port = match &check.port {
        None => String::new(),
        Some(CheckPort::Number(port)) => format!(" :{port}"),
        Some(CheckPort::Name(name)) => format!(" :{name}"),
    };
    let what = [&check.path, &check.service, &check.query].into_iter().flatten().map(|what| format!(" {what}"));
    let what = what.collect::<String>();
    Cell::new(format!("{}: {}{port}{what}, every {} s", check.name, check.check_type, check.interval()))
}

fn add_checks(fields: &mut Fields, checks: &[Check]) {
    for (n, check) in checks.iter().enumerate() {
        fields.add(if n == 0 { "Checks" } else { "" }, check_line(check));
    }
}

fn instance_fields(instance: &InstanceDocument) -> Fields {
    let mut fields = Fields::default();
    fields.add("Id", Cell::option(instance.id.as_ref()));
    fields.add("Namespace", Cell::option(instance.namespace.as_ref()));
    fields.add("Service", Cell::option(instance.service.as_ref()));
    fields.add("Source", Cell::option(instance.source.as_ref()));
    fields.add("Addresses", Cell::list(&instance.addresses));
    if !instance.shadowed.is_empty() {
        fields.add("Shadowed", Cell::list(&instance.shadowed));
    }
    if !instance.ports.is_empty() {
        fields.add("Ports", rows::ports(&instance.ports));
    }
    add_labels(&mut fields, &instance.labels);
    fields.add_some("Weight", instance.weight);
    fields.add_some("Zone", instance.zone.as_ref());
    fields.add_some("Node", instance.node.as_ref());
    fields.add_some("Hostname", instance.hostname.as_ref());
    if let Some(pod) = &instance.pod {
        fields.add("Pod", Cell::new(format!("{} {}", pod.name, pod.uid).trim_end()));
    }
    if let Some(attachment) = &instance.attachment {
        let interface = format!("{} of {}", attachment.interface, attachment.container_id);
        fields.add("Attachment", Cell::new(format!("{}: {interface}", attachment.network)));
    }
    fields.add_some("Session", instance.session.as_ref());
    add_checks(&mut fields, &instance.checks);
    for (label, condition) in [
        ("Ready", instance.conditions.ready),
        ("Serving", instance.conditions.serving),
        ("Terminating", instance.conditions.terminating),
    ] {
        fields.add_some(label, condition.map(|condition| if condition { "yes" } else { "no" }));
    }
    if let Some(health) = instance.effective_health.or(instance.health) {
        fields.add("Health", rows::health(health));
    }
    if let Some(parts) = &instance.health_parts {
        for (label, part) in [
            ("  conditions", &parts.conditions),
            ("  reported", &parts.reported),
            ("  drain", &parts.drain),
            ("  session", &parts.session),
        ] {
            if let Some(part) = part {
                fields.add(label, health_part("", part));
            }
        }
        for (check, part) in &parts.checks {
            fields.add("  check", health_part(&format!("{check}: "), part));
        }
    }
    fields.add_some("Revision", instance.revision);
    fields
}

fn health_part(name: &str, part: &PartState) -> Cell {
    let note = if part.note.is_empty() { String::new() } else { format!(" ({})", part.note) };
    let since = part.since.map(|since| format!(" since {since}")).unwrap_or_default();
    Cell::new(format!("{name}{}{note}{since}", part.health))
}

async fn namespace(context: &Context, args: &DescribeArgs) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Description {
        namespace: NamespaceDocument,
        services: Vec<ServiceDocument>,
    }
    if args.namespace.is_some() {
        bail!("a namespace is in no namespace: leave -n out");
    }
    namespace_name(&args.name).map_err(|error| anyhow!(error))?;
    let fault = || format!("can't describe namespace {}", args.name);
    let namespace = context.registry.get_namespace(&args.name).await.with_context(fault)?;
    let page = context.registry.list_services(first_page(&args.name, None)).await.with_context(fault)?;
    let more = page.continue_token.is_some();
    let description = Description { namespace, services: page.items };
    context.output.value(&description, || {
        let mut fields = Fields::default();
        fields.add("Name", Cell::option(description.namespace.name.as_ref()));
        add_labels(&mut fields, &description.namespace.labels);
        if !description.namespace.sources.is_empty() {
            fields.add("Sources", Cell::list(&description.namespace.sources));
        }
        fields.add_some("Revision", description.namespace.revision);
        let mut out = fields.render(context.output.colour);
        if description.services.is_empty() {
            out.push_str("\nNo services.\n");
        } else {
            let services = table(&description.services, context.output.wide());
            out.push_str(&format!("\n{}", services.render(context.output.colour)));
        }
        if more {
            out.push_str(&format!("… more than {SHOWN}: fingerpost get services -n {}\n", args.name));
        }
        out
    })
}
