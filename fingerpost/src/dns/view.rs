//! What a stream has told so far, and what of it can be shown: positions whole, states of the world complete, and never
//! one that lies before what is shown. No I/O, no clock.

use super::records::{ObjectId, id_of};
use fingerpost_catalog::Position;
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_client::WatchEvent;
use std::collections::HashMap;

/// Objects, the last word on each.
pub(super) type Objects = HashMap<ObjectId, ObjectDocument>;

/// What is to be shown next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// All there is; what was shown before and is not among it is gone.
    State(Objects),
    /// The last word on some objects; none where one is gone. May be empty: nothing changed up to the position.
    Changes(HashMap<ObjectId, Option<ObjectDocument>>),
}

/// A state of the world that is not shown yet.
#[derive(Debug, Default)]
struct Staging {
    objects: Objects,
    /// It has all come, but lies before what is shown: another replica's, which is behind.
    complete: bool,
}

/// What a stream has told.
#[derive(Debug)]
pub(super) struct View {
    shown: Option<Position>,
    /// Changes of a position that is not whole yet.
    pending: HashMap<ObjectId, Option<ObjectDocument>>,
    staging: Option<Staging>,
}

impl View {
    /// A view that begins with what is shown, and else with a state of the world.
    pub(super) fn new(shown: Option<Position>) -> Self {
        Self { shown, pending: HashMap::new(), staging: shown.is_none().then(Staging::default) }
    }

    /// The connection broke: what was not whole comes again.
    pub(super) fn broken(&mut self) {
        self.pending.clear();
    }

    /// Takes in what was told; says what is to be shown, and the position that is shown then.
    pub(super) fn take(&mut self, event: WatchEvent) -> Option<(Position, Step)> {
        match event {
            WatchEvent::Put { object, position } => match id_of(&object) {
                Some(id) => self.change(id, Some(object), position),
                None => self.complete(position?, false),
            },
            WatchEvent::Delete { object, position } => match id_of(&object) {
                Some(id) => self.change(id, None, position),
                None => self.complete(position?, false),
            },
            WatchEvent::Reset { .. } => {
                self.pending.clear();
                self.staging = Some(Staging::default());
                None
            }
            WatchEvent::Synced(position) => self.complete(position, true),
            WatchEvent::Bookmark(position) => self.complete(position, false),
        }
    }

    fn change(
        &mut self,
        id: ObjectId,
        object: Option<ObjectDocument>,
        position: Option<Position>,
    ) -> Option<(Position, Step)> {
        match &mut self.staging {
            Some(Staging { objects, complete: false }) => {
                set(objects, id, object);
                None
            }
            Some(Staging { complete: true, .. }) | None => {
                self.pending.insert(id, object);
                self.complete(position?, false)
            }
        }
    }

    /// All up to a position has been told.
    fn complete(&mut self, position: Position, synced: bool) -> Option<(Position, Step)> {
        let pending = std::mem::take(&mut self.pending);
        let Some(staging) = &mut self.staging else {
            self.shown = Some(position);
            return Some((position, Step::Changes(pending)));
        };
        if !staging.complete && !synced {
            return None;
        }
        for (id, object) in pending {
            set(&mut staging.objects, id, object);
        }
        staging.complete = true;
        let goes_back = self.shown.is_some_and(|shown| shown.epoch == position.epoch && shown.number > position.number);
        if goes_back {
            return None;
        }
        self.shown = Some(position);
        self.staging.take().map(|staging| (position, Step::State(staging.objects)))
    }
}

fn set(objects: &mut Objects, id: ObjectId, object: Option<ObjectDocument>) {
    match object {
        Some(object) => drop(objects.insert(id, object)),
        None => drop(objects.remove(&id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::Epoch;
    use fingerpost_catalog::document::NamespaceDocument;

    fn at(epoch: u64, number: u64) -> Position {
        Position::new(Epoch(epoch), number)
    }

    fn named(name: &str) -> ObjectDocument {
        ObjectDocument::Namespace(NamespaceDocument { name: Some(name.to_owned()), ..NamespaceDocument::default() })
    }

    fn put(name: &str, position: Option<Position>) -> WatchEvent {
        WatchEvent::Put { object: named(name), position }
    }

    fn delete(name: &str, position: Option<Position>) -> WatchEvent {
        WatchEvent::Delete { object: named(name), position }
    }

    fn names(step: Option<(Position, Step)>) -> Option<(Position, Vec<String>)> {
        let (position, step) = step?;
        let name = |id: ObjectId, kept: bool| match id {
            ObjectId::Namespace(name) => format!("{}{name}", if kept { "" } else { "-" }),
            other => panic!("{other:?}"),
        };
        let mut names: Vec<String> = match step {
            Step::State(objects) => objects.into_keys().map(|id| name(id, true)).collect(),
            Step::Changes(changes) => changes.into_iter().map(|(id, object)| name(id, object.is_some())).collect(),
        };
        names.sort();
        Some((position, names))
    }

    fn expect(step: Option<(Position, Step)>, position: Position, wanted: &[&str]) {
        let (reached, names) = names(step).expect("a step");
        assert_eq!((reached, names), (position, wanted.iter().map(|&name| name.to_owned()).collect()));
    }

    #[test]
    fn states_are_whole_and_positions_are_whole() {
        let mut view = View::new(None);
        assert_eq!(view.take(put("a", None)), None);
        assert_eq!(view.take(WatchEvent::Bookmark(at(1, 3))), None, "a state is complete when it is synced");
        assert_eq!(view.take(put("b", None)), None);
        assert_eq!(view.take(delete("a", None)), None);
        expect(view.take(WatchEvent::Synced(at(1, 5))), at(1, 5), &["b"]);
        assert_eq!(view.take(put("c", None)), None);
        expect(view.take(delete("b", Some(at(1, 6)))), at(1, 6), &["-b", "c"]);
        expect(view.take(WatchEvent::Bookmark(at(1, 9))), at(1, 9), &[]);
        // Cut in the middle of a position.
        assert_eq!(view.take(put("d", None)), None);
        view.broken();
        expect(view.take(put("e", Some(at(1, 10)))), at(1, 10), &["e"]);
    }

    #[test]
    fn what_is_shown_never_goes_back_but_with_its_history() {
        let mut view = View::new(Some(at(1, 8)));
        assert!(view.take(WatchEvent::Reset { reason: String::new() }).is_none());
        assert_eq!(view.take(put("a", None)), None);
        // A replica that is behind.
        assert_eq!(view.take(WatchEvent::Synced(at(1, 6))), None);
        assert_eq!(view.take(put("b", Some(at(1, 7)))), None);
        expect(view.take(delete("a", Some(at(1, 8)))), at(1, 8), &["b"]);
        // A registry whose data was restored.
        assert!(view.take(WatchEvent::Reset { reason: String::new() }).is_none());
        expect(view.take(WatchEvent::Synced(at(2, 1))), at(2, 1), &[]);
    }
}
