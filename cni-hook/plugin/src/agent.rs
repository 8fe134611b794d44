//! One question to the node agent, and its reply, in a time that was set before.

use crate::intent::{Intent, MAX_FRAME, Reply};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why there was no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or has not taken it in time.
    #[error("the node agent at {socket} can't be asked: {error}")]
    Away {
        /// Where it should be.
        socket: String,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// It has replied something that is no reply.
    #[error("the node agent at {socket} replies what can't be read: {error}")]
    Garbled {
        /// Where it is.
        socket: String,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
}

/// Tells the agent, and waits for its word until the deadline.
///
/// # Errors
///
/// See [`AskError`]. The agent may have taken the intent all the same.
pub fn ask(socket: &Path, intent: &Intent, deadline: Instant) -> Result<Reply, AskError> {
    let away = |error| AskError::Away { socket: socket.display().to_string(), error };
    let garbled = |error| AskError::Garbled { socket: socket.display().to_string(), error };
    let body = serde_json::to_vec(intent).map_err(garbled)?;
    let reply = exchange(socket, &body, deadline).map_err(away)?;
    serde_json::from_slice(&reply).map_err(garbled)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // Zero would mean no limit.
    if left < Duration::from_millis(1) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn exchange(path: &Path, body: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It holds for connecting, too, which waits while the agent's queue is full (unix(7)).
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left(deadline)?))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more than a frame can hold"))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        let written = stream.write(rest)?;
        rest = &rest[written..];
    }
    let mut head = [0; 4];
    read_exact(&mut stream, &mut head, deadline)?;
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is larger than a frame may be"));
    }
    let mut reply = vec![0; length];
    read_exact(&mut stream, &mut reply, deadline)?;
    Ok(reply)
}

fn read_exact(stream: &mut UnixStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
