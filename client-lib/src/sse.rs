//! Server-Sent Events, taken apart as they arrive.
//!
//! The parser follows the HTML standard's rules for `text/event-stream` with two differences that resumption needs: an
//! event shows an id only where it carries one itself, and `retry` is passed over (the client has its own backoff). It
//! keeps no more than one event, and gives up on one that is too long: a server can't make it grow without bound.

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// Its type; `message` where the server names none.
    pub event: String,
    /// Its data, lines joined with `\n`.
    pub data: String,
    /// The id that it carries itself.
    pub id: Option<String>,
}

/// A stream that can't be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event or line is longer than allowed.
    #[error("an event is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A line is not UTF-8.
    #[error("a line is not UTF-8")]
    NotUtf8,
}

/// The parser: bytes in, events out, in whatever portions the bytes come.
#[derive(Debug)]
pub struct SseParser {
    limit: usize,
    line: Vec<u8>,
    event: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    /// The last byte was CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    /// No line has ended yet: a byte order mark may stand before the first.
    at_start: bool,
}

impl SseParser {
    /// A parser that takes events of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            event: String::new(),
            data: String::new(),
            has_data: false,
            id: None,
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes in more of the stream and appends the events that it completes. After an error the stream is of no use;
    /// events appended before it are good.
    pub fn feed(&mut self, mut chunk: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        while let Some(&first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.line.len() + part.len() + self.data.len() > self.limit {
                return Err(SseError::TooLong { limit: self.limit });
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = chunk[end] == b'\r';
            chunk = &chunk[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.end_line(&line, events)?;
            // Keep the allocation: lines are many.
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let mut line = std::str::from_utf8(line).map_err(|_| SseError::NotUtf8)?;
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            self.end_event(events);
            return Ok(());
        }
        let (field, value) = match line.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments (an empty field name), `retry`, and what the standard may add.
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self, events: &mut Vec<SseEvent>) {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        let id = self.id.take();
        if std::mem::take(&mut self.has_data) {
            let event = if event.is_empty() { "message".to_owned() } else { event };
            events.push(SseEvent { event, data, id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]], limit: usize) -> (Vec<SseEvent>, Option<SseError>) {
        let (mut parser, mut events) = (SseParser::new(limit), Vec::new());
        let error = chunks.iter().find_map(|chunk| parser.feed(chunk, &mut events).err());
        (events, error)
    }

    fn event(event: &str, data: &str, id: Option<&str>) -> SseEvent {
        SseEvent { event: event.into(), data: data.into(), id: id.map(Into::into) }
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let text = "\u{feff}: hello\r\n\r\nevent: put\r\ndata: {\"a\":1}\r\n\r\nid: 7\rdata:x\rdata:  y\r\rdata\n\n\
                    event: lost\n\nretry: 9\nunknown\ndata: é\nid: 8\n\ndata: unfinished\n";
        let (events, error) = parse(&[text.as_bytes()], 1000);
        assert_eq!(error, None);
        assert_eq!(
            events,
            [
                event("put", "{\"a\":1}", None),
                event("message", "x\n y", Some("7")),
                event("message", "", None),
                event("message", "é", Some("8")),
            ]
        );
    }

    #[test]
    fn long_lines_and_long_events_are_refused() {
        assert_eq!(parse(&[&[b'x'; 101]], 100).1, Some(SseError::TooLong { limit: 100 }));
        let lines = b"data: 0123456789\n".repeat(11);
        assert_eq!(parse(&[&lines], 100).1, Some(SseError::TooLong { limit: 100 }));
        let events = b"data: 0123456789\n\n".repeat(1000);
        assert_eq!(parse(&[&events], 100).0.len(), 1000);
        assert_eq!(parse(&[b"data: \xff\n"], 100).1, Some(SseError::NotUtf8));
    }

    /// A field, what stands between it and its value, the value, and the line's end.
    fn line() -> impl Strategy<Value = (String, String, String, String)> {
        let field = "(event|data|id|retry|x)?";
        let end = "(\r\n|\n|\r|\n\n|\r\r|\r\n\r\n)";
        (field, "(:| :|: )?", "[ a-zé:\u{feff}]{0,6}", end)
    }

    proptest! {
        /// Where the network cuts the stream makes no difference.
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in prop::collection::vec(line(), 0..30),
            cuts in prop::collection::vec(0.0..1.0f64, 0..20),
        ) {
            let text: Vec<u8> = lines.iter().flat_map(|(a, b, c, d)| [a, b, c, d]).flat_map(|s| s.bytes()).collect();
            let whole = parse(&[&text], 64);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * text.len() as f64) as usize).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&parse(&chunks, 64), &whole);
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            prop_assert_eq!(&parse(&bytes, 64), &whole);
        }
    }
}
