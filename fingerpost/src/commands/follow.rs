//! `get --watch`: the present state, then what changes.
//!
//! The state is kept, so that a change can be told from an addition, and so that after a `reset` (the registry can't
//! say what happened in between, but sends its state anew) the difference is shown rather than everything again.

use super::Context;
use super::rows::{Listed, Tagged, kind_name, tagged};
use crate::output::{Cell, Format, Output, Style, Table, render_row};
use anyhow::Context as _;
use fingerpost_client::{Registry, WatchEvent, WatchRequest};
use futures_util::StreamExt;
use serde::Serialize;
use std::collections::BTreeMap;

/// How wide columns are while nothing is known of what will stand in them: room for an address with a port.
const UNKNOWN_WIDTH: usize = 13;

/// What happened to an object, as far as the reader of the output is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Present,
    Added,
    Changed,
    Removed,
}

impl Change {
    const fn word(self) -> &'static str {
        match self {
            Change::Present => "present",
            Change::Added => "added",
            Change::Changed => "changed",
            Change::Removed => "removed",
        }
    }

    const fn style(self) -> Style {
        match self {
            Change::Present => Style::Dim,
            Change::Added => Style::Good,
            Change::Changed => Style::Warn,
            Change::Removed => Style::Bad,
        }
    }
}

/// What is known of the objects, and what the events so far amount to.
struct State<T> {
    shown: BTreeMap<String, T>,
    /// The state that is being sent, until it is whole.
    incoming: Option<BTreeMap<String, T>>,
    /// Nothing has been shown yet.
    first: bool,
}

impl<T: Listed> State<T> {
    fn new() -> Self {
        Self { shown: BTreeMap::new(), incoming: Some(BTreeMap::new()), first: true }
    }

    /// Takes in an event; returns what to show for it.
    fn take(&mut self, event: WatchEvent) -> Vec<(Change, T)> {
        match event {
            WatchEvent::Put { object, .. } => {
                let Some(object) = T::from_object(object) else {
                    return Vec::new();
                };
                match &mut self.incoming {
                    Some(incoming) => {
                        incoming.insert(object.key(), object);
                        Vec::new()
                    }
                    None => match self.shown.insert(object.key(), object.clone()) {
                        Some(before) if before == object => Vec::new(),
                        Some(_) => vec![(Change::Changed, object)],
                        None => vec![(Change::Added, object)],
                    },
                }
            }
            WatchEvent::Delete { object, .. } => {
                let Some(object) = T::from_object(object) else {
                    return Vec::new();
                };
                match &mut self.incoming {
                    Some(incoming) => {
                        incoming.remove(&object.key());
                        Vec::new()
                    }
                    None => {
                        // The last known state says more than an identity does.
                        let before = self.shown.remove(&object.key());
                        before.map(|before| (Change::Removed, before)).into_iter().collect()
                    }
                }
            }
            WatchEvent::Synced(_) => self.synced(),
            WatchEvent::Reset { .. } => {
                self.incoming = Some(BTreeMap::new());
                Vec::new()
            }
            WatchEvent::Bookmark(_) => Vec::new(),
        }
    }

    fn synced(&mut self) -> Vec<(Change, T)> {
        // A resumed stream may say again that it is in step, without a state before it.
        let Some(incoming) = self.incoming.take() else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut self.shown, incoming);
        if std::mem::take(&mut self.first) {
            return self.shown.values().map(|object| (Change::Present, object.clone())).collect();
        }
        let mut changes = Vec::new();
        for (key, object) in &before {
            if !self.shown.contains_key(key) {
                changes.push((Change::Removed, object.clone()));
            }
        }
        for (key, object) in &self.shown {
            match before.get(key) {
                Some(known) if known == object => {}
                Some(_) => changes.push((Change::Changed, object.clone())),
                None => changes.push((Change::Added, object.clone())),
            }
        }
        changes
    }
}

/// Prints until interrupted, or until an error that waiting does not mend.
pub(super) async fn follow<T: Listed>(context: &Context, request: WatchRequest) -> anyhow::Result<()> {
    let mut events = context.registry.watch(request);
    let mut state = State::<T>::new();
    let mut printer = Printer::new(context.output);
    let mut connected = false;
    let mut told_of = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut told_of) {
                    context.output.note("watching again");
                }
                connected = true;
                let first = state.first;
                let changes = state.take(event);
                // The head of the table shows that the watch runs, even where there is nothing yet.
                if first && !state.first {
                    printer.begin(&changes)?;
                } else {
                    printer.print(&changes)?;
                }
            }
            // Who starts a watch wants to know at once that there is nobody to ask.
            Err(error) if connected && error.is_transient() => {
                if !std::mem::replace(&mut told_of, true) {
                    context.output.note(&format!("the watch broke ({error}); trying again"));
                }
            }
            Err(error) => return Err(error).with_context(|| format!("can't watch {}s", kind_name(T::KIND))),
        }
    }
    Ok(())
}

/// A change as programs read it.
#[derive(Serialize)]
struct Event<'a, T> {
    event: &'static str,
    object: Tagged<'a, T>,
}

impl<'a, T: Listed> Event<'a, T> {
    fn new(change: Change, object: &'a T) -> Self {
        Self { event: change.word(), object: tagged(object) }
    }
}

struct Printer {
    output: Output,
    widths: Vec<usize>,
}

impl Printer {
    fn new(output: Output) -> Self {
        Self { output, widths: Vec::new() }
    }

    /// Prints the first state.
    fn begin<T: Listed>(&mut self, changes: &[(Change, T)]) -> anyhow::Result<()> {
        if matches!(self.output.format, Format::Json | Format::Yaml) {
            return self.print(changes);
        }
        let mut headers = vec!["EVENT"];
        headers.extend(T::headers(self.output.wide()));
        let mut table = Table::new(headers);
        for (change, object) in changes {
            table.push(self.row(*change, object));
        }
        self.widths = table.widths();
        if changes.is_empty() {
            self.widths.iter_mut().for_each(|width| *width = (*width).max(UNKNOWN_WIDTH));
        }
        // Room for all of the words, so that later rows stay in line.
        self.widths[0] = Change::Present.word().len();
        Ok(self.output.text(&table.render_with(&self.widths, self.output.colour))?)
    }

    /// Prints changes, each on a line (a document) of its own.
    fn print<T: Listed>(&mut self, changes: &[(Change, T)]) -> anyhow::Result<()> {
        let mut text = String::new();
        for (change, object) in changes {
            match self.output.format {
                Format::Table | Format::Wide => {
                    let row = self.row(*change, object);
                    // What is wider than all before moves the rows after it, too.
                    for (width, cell) in self.widths.iter_mut().zip(&row) {
                        *width = (*width).max(cell.width());
                    }
                    text.push_str(&render_row(&row, &self.widths, self.output.colour));
                }
                Format::Json => {
                    text.push_str(&format!("{}\n", serde_json::to_string(&Event::new(*change, object))?));
                }
                Format::Yaml => {
                    text.push_str(&format!("---\n{}", serde_norway::to_string(&Event::new(*change, object))?));
                }
            }
        }
        Ok(self.output.text(&text)?)
    }

    fn row<T: Listed>(&self, change: Change, object: &T) -> Vec<Cell> {
        let mut row = vec![Cell::styled(change.word(), change.style())];
        row.extend(object.row(self.output.wide()));
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::document::{NamespaceDocument, ObjectDocument};
    use fingerpost_catalog::{Epoch, Position};

    fn object(name: &str, label: &str) -> ObjectDocument {
        ObjectDocument::Namespace(NamespaceDocument {
            name: Some(name.to_owned()),
            labels: [("l", label)].into_iter().collect(),
            ..NamespaceDocument::default()
        })
    }

    fn put(name: &str, label: &str) -> WatchEvent {
        WatchEvent::Put { object: object(name, label), position: None }
    }

    fn delete(name: &str) -> WatchEvent {
        WatchEvent::Delete { object: object(name, ""), position: None }
    }

    #[test]
    fn a_reset_shows_the_difference_only() {
        let synced = || WatchEvent::Synced(Position::new(Epoch(1), 1));
        let mut state = State::<NamespaceDocument>::new();
        let mut take = |event| {
            let changes = state.take(event).into_iter();
            changes.map(|(change, namespace)| format!("{} {}", change.word(), namespace.key())).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(take(put("a", "1")), none);
        assert_eq!(take(put("b", "1")), none);
        assert_eq!(take(synced()), ["present a", "present b"]);
        assert_eq!(take(put("c", "1")), ["added c"]);
        assert_eq!(take(put("c", "2")), ["changed c"]);
        assert_eq!(take(put("c", "2")), none, "events that come again show nothing");
        assert_eq!(take(delete("a")), ["removed a"]);
        assert_eq!(take(delete("a")), none);
        assert_eq!(take(synced()), none, "a resumption without a state removes nothing");
        // b is gone, c different, d new; a reset in the middle starts the state over.
        for event in [
            WatchEvent::Reset { reason: String::new() },
            put("x", "1"),
            WatchEvent::Reset { reason: String::new() },
            put("c", "3"),
            put("d", "1"),
        ] {
            assert_eq!(take(event), none);
        }
        assert_eq!(take(synced()), ["removed b", "changed c", "added d"]);
    }
}
