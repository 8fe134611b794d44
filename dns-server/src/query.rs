//! Asks a name server, any name server, and makes its answer readable: for `resolve` on the command line and for tests.
//!
//! This is a stub's part: one question over UDP, once again when nothing comes back, over TCP when the answer was cut.

use hickory_proto::op::{DnsResponse, Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// What we take over UDP; see [`Config::udp_payload`](crate::Config::udp_payload).
const PAYLOAD: u16 = 1232;

/// A record as text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Whose record it is.
    pub name: String,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    /// `A`, `SRV` and so on.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The data in the form of zone files.
    pub data: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} IN {} {}", self.name, self.ttl, self.record_type, self.data)
    }
}

/// A server's answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Who answered.
    pub server: SocketAddr,
    /// `NOERROR`, `NXDOMAIN` and so on.
    pub rcode: String,
    /// Whether the server speaks for the zone itself.
    pub authoritative: bool,
    /// Whether records are missing even so.
    pub truncated: bool,
    /// Whether TCP was needed.
    pub tcp: bool,
    /// The answer's size in octets.
    pub size: usize,
    /// From question to answer, in milliseconds.
    pub milliseconds: f64,
    /// The records asked for.
    pub answers: Vec<Line>,
    /// With a negative answer, the zone's SOA.
    pub authorities: Vec<Line>,
    /// Addresses of the names in the answer.
    pub additionals: Vec<Line>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Not a name.
    #[error("`{0}` is not a domain name")]
    Name(String),
    /// Not a type.
    #[error("`{0}` is not a record type: write for example A, AAAA, SRV, PTR, TXT or ANY")]
    Type(String),
    /// Nothing came.
    #[error("{server} did not answer within {after:?}; is a name server listening there?")]
    Timeout {
        /// Who was asked.
        server: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The network said no.
    #[error("can't ask {server}")]
    Network {
        /// Who was asked.
        server: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The question could not be written.
    #[error("the question can't be written: {0}")]
    Encode(String),
}

/// Asks `server` for the records of a name. The name is taken as complete, without search domains.
pub async fn query(server: SocketAddr, name: &str, qtype: &str, limit: Duration) -> Result<Reply, QueryError> {
    let (question, packet) = question(name, qtype)?;
    let began = Instant::now();
    let network = |source| QueryError::Network { server, source };
    let asked = async {
        let (mut message, mut size) = ask_udp(server, &question, &packet, limit / 2).await?;
        let tcp = message.metadata.truncation;
        if tcp {
            (message, size) = ask_tcp(server, &question, &packet).await?;
        }
        Ok((message, size, tcp))
    };
    let answered = timeout(limit, asked).await;
    let (message, size, tcp) = answered.map_err(|_| QueryError::Timeout { server, after: limit })?.map_err(network)?;
    Ok(Reply {
        server,
        rcode: rcode_name(message.metadata.response_code),
        authoritative: message.metadata.authoritative,
        truncated: message.metadata.truncation,
        tcp,
        size,
        milliseconds: began.elapsed().as_secs_f64() * 1e3,
        answers: lines(&message.answers),
        authorities: lines(&message.authorities),
        additionals: lines(&message.additionals),
    })
}

/// The question as a message, and in wire form.
pub(crate) fn question(name: &str, qtype: &str) -> Result<(Message, Vec<u8>), QueryError> {
    // In DNS a label may be any octets; as text, hickory takes no `-` at the beginning, which addresses with dashes have.
    let labels = || Name::from_labels(name.trim_end_matches('.').split('.').map(str::as_bytes));
    let mut wanted =
        Name::from_ascii(name).or_else(|_| labels()).map_err(|_| QueryError::Name(name.chars().take(260).collect()))?;
    wanted.set_fqdn(true);
    let qtype: RecordType =
        qtype.to_ascii_uppercase().parse().map_err(|_| QueryError::Type(qtype.chars().take(32).collect()))?;
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wanted, qtype));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    let packet = message.to_vec().map_err(|error| QueryError::Encode(error.to_string()))?;
    Ok((message, packet))
}

/// Reads an answer, where it is one to this question.
fn decode(question: &Message, bytes: &[u8]) -> Option<Message> {
    let message = DnsResponse::from_buffer(bytes.to_vec()).ok()?.into_message();
    let answers_it = message.metadata.id == question.metadata.id
        // A server that could not read the question does not repeat it.
        && (message.queries.is_empty() || message.queries == question.queries);
    answers_it.then_some(message)
}

async fn ask_udp(
    server: SocketAddr,
    question: &Message,
    packet: &[u8],
    again: Duration,
) -> std::io::Result<(Message, usize)> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, it takes answers from nobody else.
    socket.connect(server).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        socket.send(packet).await?;
        let answer = async {
            loop {
                let size = socket.recv(&mut buffer).await?;
                if let Some(message) = decode(question, &buffer[..size]) {
                    return Ok((message, size));
                }
            }
        };
        if let Ok(answer) = timeout(again, answer).await {
            return answer;
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &Message, packet: &[u8]) -> std::io::Result<(Message, usize)> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).await?;
    let size = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(size)];
    stream.read_exact(&mut buffer).await?;
    let message = decode(question, &buffer);
    message.map(|message| (message, buffer.len())).ok_or_else(|| std::io::Error::other("the answer can't be read"))
}

/// What a record type is called; `TYPE` and its number where it has no name that we know (RFC 3597 §5).
pub(crate) fn type_name(number: u16) -> String {
    match RecordType::from(number) {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

pub(crate) fn rcode_name(rcode: ResponseCode) -> String {
    match rcode {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        // 16 is BADSIG in a signed message, which ours are not (RFC 6895 §2.3).
        other => match u16::from(other) {
            16 => "BADVERS".to_owned(),
            number => format!("RCODE{number}"),
        },
    }
}

pub(crate) fn lines(records: &[Record]) -> Vec<Line> {
    records
        .iter()
        .map(|record| Line {
            name: record.name.to_string(),
            ttl: record.ttl,
            record_type: record.record_type().to_string(),
            data: data(&record.data),
        })
        .collect()
}

/// The data as zone files have it.
fn data(data: &RData) -> String {
    match data {
        // Character strings: in quotes, of which and of bytes that can't be printed none are left bare (RFC 1035 §5.1).
        RData::TXT(txt) => {
            let strings: Vec<String> = txt.txt_data.iter().map(|string| quoted(string)).collect();
            strings.join(" ")
        }
        data => data.to_string(),
    }
}

fn quoted(string: &[u8]) -> String {
    let mut text = String::with_capacity(string.len() + 2);
    text.push('"');
    for &byte in string {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:03}")),
        }
    }
    text.push('"');
    text
}

/// An answer of our own index, as text.
pub(crate) fn read(bytes: &[u8]) -> Option<(String, Vec<Line>)> {
    let message = Message::from_vec(bytes).ok()?;
    Some((rcode_name(message.metadata.response_code), lines(&message.answers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn character_strings_are_quoted() {
        assert_eq!(quoted(b"1.1.0"), "\"1.1.0\"");
        assert_eq!(quoted(b"a \"b\\\x07\xff"), r#""a \"b\\\007\255""#);
    }
}
