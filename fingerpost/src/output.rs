//! Printing: tables for people, JSON and YAML for programs, colour only where somebody sees it.

use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    Table,
    /// Aligned columns, more of them
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// When to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Style {
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Aside.
    Dim,
    /// A heading.
    Bold,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
            Style::Dim => "2",
            Style::Bold => "1",
        }
    }
}

/// A piece of text, safe to print: what comes from others may hold no sequences that steer the terminal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Option<Style>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.contains(char::is_control) {
            text = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        }
        Self { text, style: None }
    }

    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { style: Some(style), ..Self::new(text) }
    }

    /// The parts with commas between them; `-` where there are none.
    pub(crate) fn list<T: ToString>(parts: impl IntoIterator<Item = T>) -> Self {
        let parts: Vec<String> = parts.into_iter().map(|part| part.to_string()).collect();
        Self::new(if parts.is_empty() { "-".to_owned() } else { parts.join(",") })
    }

    /// The value; `-` where there is none.
    pub(crate) fn option(value: Option<impl ToString>) -> Self {
        Self::new(value.map_or_else(|| "-".to_owned(), |value| value.to_string()))
    }

    /// How many characters it shows.
    pub(crate) fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// The text with its colour.
    pub(crate) fn paint(&self, colour: bool) -> String {
        match self.style {
            Some(style) if colour => format!("\x1b[{}m{}\x1b[0m", style.code(), self.text),
            _ => self.text.clone(),
        }
    }
}

/// Rows under upper-case headers, in columns as wide as their widest cell.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(headers: Vec<&'static str>) -> Self {
        Self { headers, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How wide each column is.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headers.iter().map(|header| header.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        widths
    }

    /// The table as text, a line for the headers and one for each row.
    pub(crate) fn render(&self, colour: bool) -> String {
        self.render_with(&self.widths(), colour)
    }

    /// The table in columns of the given widths.
    pub(crate) fn render_with(&self, widths: &[usize], colour: bool) -> String {
        let headers: Vec<Cell> = self.headers.iter().map(|header| Cell::styled(*header, Style::Bold)).collect();
        let mut out = render_row(&headers, widths, colour);
        for row in &self.rows {
            out.push_str(&render_row(row, widths, colour));
        }
        out
    }
}

/// A row in columns of the given widths. A cell that is wider pushes the rest aside.
pub(crate) fn render_row(row: &[Cell], widths: &[usize], colour: bool) -> String {
    let mut out = String::new();
    for (n, cell) in row.iter().enumerate() {
        out.push_str(&cell.paint(colour));
        // No spaces at the end of lines: they get in the way of copying.
        if n + 1 < row.len() {
            let width = widths.get(n).copied().unwrap_or(0);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 3));
        }
    }
    out.push('\n');
    out
}

/// Where a command prints, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) colour: bool,
}

impl Output {
    pub(crate) fn new(format: Format, colour: Colour) -> Self {
        let colour = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Self { format, colour }
    }

    /// Prints text as it is, at once: a reader at the end of a pipe waits for it.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// A note for people that is no part of what a program reads.
    pub(crate) fn note(&self, text: &str) {
        // A note that can't be shown is no reason to fail.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints a value in the asked format, for people as `human` makes it.
    pub(crate) fn value<T: Serialize>(&self, value: &T, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table | Format::Wide => human(),
            Format::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
            Format::Yaml => serde_norway::to_string(value)?,
        };
        Ok(self.text(&text)?)
    }

    /// Whether wide tables are asked for.
    pub(crate) fn wide(&self) -> bool {
        self.format == Format::Wide
    }
}

/// Lines of `Label:  value`, their values below each other.
#[derive(Default)]
pub(crate) struct Fields(Vec<(&'static str, Cell)>);

impl Fields {
    pub(crate) fn add(&mut self, label: &'static str, value: Cell) {
        self.0.push((label, value));
    }

    /// Adds a field only where there is something to say.
    pub(crate) fn add_some(&mut self, label: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.add(label, Cell::new(value.to_string()));
        }
    }

    pub(crate) fn render(&self, colour: bool) -> String {
        let width = self.0.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 1;
        self.0.iter().fold(String::new(), |mut out, (label, value)| {
            // A field without a label goes on with the one above.
            let label = if label.is_empty() { String::new() } else { format!("{label}:") };
            out.push_str(&format!("{label:width$}  {}\n", value.paint(colour)));
            out
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(vec!["NAME", "HEALTH", "LABELS"]);
        table.push(vec![Cell::new("é"), Cell::styled("passing", Style::Good), Cell::list(["a=b", "c=d"])]);
        table.push(vec![Cell::new("longer-name"), Cell::styled("critical", Style::Bad), Cell::list([""; 0])]);
        let plain = "NAME          HEALTH     LABELS\n\
                     é             passing    a=b,c=d\n\
                     longer-name   critical   -\n";
        assert_eq!(table.render(false), plain);
        // Colour must not move the columns.
        let coloured = table.render(true);
        assert!(coloured.contains("\x1b[32mpassing\x1b[0m    a=b"), "{coloured}");
        let mut bare = coloured;
        for code in ["1", "31", "32", "0"] {
            bare = bare.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(bare, plain);
    }

    #[test]
    fn wide_cells_push_the_rest_aside() {
        let row = [Cell::new("too wide"), Cell::new("b")];
        assert_eq!(render_row(&row, &[3, 1], false), "too wide   b\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(Cell::new("a\x1b[2Jb\n").paint(true), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn fields_are_aligned() {
        let mut fields = Fields::default();
        fields.add("Name", Cell::new("web"));
        fields.add_some("Namespace", Some("prod"));
        fields.add("", Cell::new("more"));
        fields.add_some("Zone", None::<String>);
        assert_eq!(fields.render(false), "Name:       web\nNamespace:  prod\n            more\n");
    }
}
