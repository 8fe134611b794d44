//! The selector parser: the same tokens and steps as in Kubernetes' `labels.Parse`, with the place of every error.

use super::{
    MAX_REQUIREMENTS, MAX_SELECTOR_LENGTH, MAX_VALUES, Operator, ParseSelectorError, Requirement, is_label_key,
    is_label_value,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'a> {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    /// A key, a value or one of the words `in` and `notin`: only the place tells.
    Word(&'a str),
}

impl Token<'_> {
    /// As an error message names it.
    fn name(&self) -> String {
        match self {
            Token::End => "the end".to_owned(),
            Token::Open => "'('".to_owned(),
            Token::Close => "')'".to_owned(),
            Token::Comma => "','".to_owned(),
            Token::Not => "'!'".to_owned(),
            Token::Equals => "'='".to_owned(),
            Token::NotEquals => "'!='".to_owned(),
            Token::Greater => "'>'".to_owned(),
            Token::Less => "'<'".to_owned(),
            Token::Word(word) => format!("`{}`", cut(word)),
        }
    }
}

/// A text from outside, short enough for a message.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_symbol(c: u8) -> bool {
    matches!(c, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

struct Parser<'a> {
    text: &'a str,
    /// Where the text that is not yet a token begins, in bytes.
    rest: usize,
    /// The next token, and where it begins.
    next: (Token<'a>, usize),
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, ParseSelectorError> {
    if text.len() > MAX_SELECTOR_LENGTH {
        let kept = (0..=MAX_SELECTOR_LENGTH).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        return Err(ParseSelectorError {
            position: text[..kept].chars().count() + 1,
            message: format!("the selector has {} bytes, and at most {MAX_SELECTOR_LENGTH} are allowed", text.len()),
            text: text[..kept].to_owned(),
        });
    }
    let mut parser = Parser { text, rest: 0, next: (Token::End, 0) };
    if let Some(at) = text.find('\0') {
        return Err(parser.error(at, "a NUL character is not allowed".to_owned()));
    }
    parser.advance();
    let mut requirements = Vec::new();
    if parser.next.0 == Token::End {
        return Ok(requirements);
    }
    loop {
        if requirements.len() == MAX_REQUIREMENTS {
            return Err(parser.error(parser.next.1, format!("at most {MAX_REQUIREMENTS} requirements are allowed")));
        }
        requirements.push(parser.requirement()?);
        match parser.take() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => {}
            found => return Err(parser.unexpected(found, "',' or the end")),
        }
    }
}

impl<'a> Parser<'a> {
    /// Moves to the next token.
    fn advance(&mut self) {
        let bytes = self.text.as_bytes();
        let mut at = self.rest;
        while bytes.get(at).copied().is_some_and(is_space) {
            at += 1;
        }
        let (token, length) = match (bytes.get(at), bytes.get(at + 1)) {
            (None, _) => (Token::End, 0),
            (Some(b'='), Some(b'=')) => (Token::Equals, 2),
            (Some(b'='), _) => (Token::Equals, 1),
            (Some(b'!'), Some(b'=')) => (Token::NotEquals, 2),
            (Some(b'!'), _) => (Token::Not, 1),
            (Some(b'('), _) => (Token::Open, 1),
            (Some(b')'), _) => (Token::Close, 1),
            (Some(b','), _) => (Token::Comma, 1),
            (Some(b'>'), _) => (Token::Greater, 1),
            (Some(b'<'), _) => (Token::Less, 1),
            (Some(_), _) => {
                // Spaces and symbols are ASCII, so the cut never falls within a character.
                let length = bytes[at..].iter().take_while(|&&c| !is_space(c) && !is_symbol(c)).count();
                (Token::Word(&self.text[at..at + length]), length)
            }
        };
        self.next = (token, at);
        self.rest = at + length;
    }

    /// The next token and its place, consumed.
    fn take(&mut self) -> (Token<'a>, usize) {
        let taken = self.next;
        self.advance();
        taken
    }

    fn error(&self, at: usize, message: String) -> ParseSelectorError {
        ParseSelectorError { position: self.text[..at].chars().count() + 1, message, text: self.text.to_owned() }
    }

    fn unexpected(&self, (token, at): (Token<'a>, usize), expected: &str) -> ParseSelectorError {
        self.error(at, format!("found {}, expected {expected}", token.name()))
    }

    fn requirement(&mut self) -> Result<Requirement, ParseSelectorError> {
        let negated = self.next.0 == Token::Not;
        if negated {
            self.advance();
        }
        let (token, at) = self.take();
        let Token::Word(key) = token else {
            let expected = if negated { "a label key after '!'" } else { "a label key or '!'" };
            return Err(self.unexpected((token, at), expected));
        };
        if !is_label_key(key) {
            let rule = "is not a label key: a key is a name of 1 to 63 letters, digits, '-', '_' and '.', beginning \
                        and ending with a letter or digit, with an optional DNS subdomain and '/' before it";
            return Err(self.error(at, format!("`{}` {rule}", cut(key))));
        }
        let (operator, values) = if negated {
            (Operator::DoesNotExist, Vec::new())
        } else if matches!(self.next.0, Token::End | Token::Comma) {
            (Operator::Exists, Vec::new())
        } else {
            self.comparison()?
        };
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn comparison(&mut self) -> Result<(Operator, Vec<String>), ParseSelectorError> {
        let operator = match self.take() {
            (Token::Equals, _) => Operator::Equals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::GreaterThan,
            (Token::Less, _) => Operator::LessThan,
            (Token::Word("in"), _) => Operator::In,
            (Token::Word("notin"), _) => Operator::NotIn,
            found => return Err(self.unexpected(found, "'=', '==', '!=', '>', '<', `in`, `notin`, ',' or the end")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.value_set()?,
            _ => vec![self.single_value(operator)?],
        };
        Ok((operator, values))
    }

    fn single_value(&mut self, operator: Operator) -> Result<String, ParseSelectorError> {
        let at = self.next.1;
        let value = match self.next.0 {
            Token::End | Token::Comma => "",
            Token::Word(word) => {
                self.advance();
                word
            }
            _ => return Err(self.unexpected(self.next, "a value")),
        };
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
            let found = if value.is_empty() { "nothing".to_owned() } else { format!("`{}`", cut(value)) };
            return Err(self.error(at, format!("found {found}, expected an integer after '>' or '<'")));
        }
        self.value(value, at)
    }

    fn value(&self, value: &str, at: usize) -> Result<String, ParseSelectorError> {
        if !is_label_value(value) {
            let rule = "is not a label value: a value is empty or has at most 63 letters, digits, '-', '_' and '.', \
                        beginning and ending with a letter or digit";
            return Err(self.error(at, format!("`{}` {rule}", cut(value))));
        }
        Ok(value.to_owned())
    }

    /// `(a,b)`, sorted and without duplicates. An empty place between commas or beside a parenthesis is the empty
    /// value.
    fn value_set(&mut self) -> Result<Vec<String>, ParseSelectorError> {
        let found = self.take();
        if found.0 != Token::Open {
            return Err(self.unexpected(found, "'(' and a list of values"));
        }
        let mut values = Vec::new();
        if self.next.0 == Token::Close {
            self.advance();
            values.push(String::new());
            return Ok(values);
        }
        loop {
            if values.len() >= MAX_VALUES {
                return Err(self.error(self.next.1, format!("at most {MAX_VALUES} values are allowed")));
            }
            match self.take() {
                (Token::Word(word), at) => {
                    values.push(self.value(word, at)?);
                    match self.next.0 {
                        Token::Comma => {}
                        Token::Close => break,
                        _ => return Err(self.unexpected(self.next, "',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    if self.next.0 == Token::Close {
                        values.push(String::new());
                        break;
                    }
                    // Kubernetes takes the second comma here, so that `(a,,)` is an error and `(a,,b)` is none.
                    if self.next.0 == Token::Comma {
                        self.advance();
                        values.push(String::new());
                    }
                }
                found => return Err(self.unexpected(found, "a value or ','")),
            }
        }
        self.advance();
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }
}
