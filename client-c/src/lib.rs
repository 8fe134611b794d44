//! The client library for C, and so for every language that can call C.
//!
//! Everything is a pointer to something opaque that one function makes and one frees. Strings that go in are UTF-8 and
//! end with 0, and are not kept; strings that come out are freed by [`fp_string_free`]. A function that can fail takes a
//! place for a message as its last argument, which may be null; it is written only when the function fails. Everything
//! but the freeing may be called from several threads at once. Nothing here panics into its caller, and nothing waits for
//! longer than it is told to.

mod call;
mod register;
mod subscribe;

pub use register::*;
pub use subscribe::*;

use call::{optional, required, run};
use fingerpost_client::blocking::Client;
use fingerpost_client::{HttpOptions, Token};
use std::ffi::{CString, c_char};

/// A client of a registry.
pub struct FpClient {
    client: Client,
}

/// Frees a string that a function of this library returned. Null is fine.
///
/// # Safety
///
/// The string is one of this library's, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: by this function's contract the pointer came from `CString::into_raw`.
        drop(unsafe { CString::from_raw(string) });
    }
}

/// A client of the registry at these endpoints: URLs with commas between them. `token_file`, `ca_file` and `cache_dir` may
/// be null: no token, the system's CAs, no memory on disk. Does not connect yet. Null where something is wrong.
///
/// # Safety
///
/// The strings end with 0; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_client_new(
    endpoints: *const c_char,
    token_file: *const c_char,
    ca_file: *const c_char,
    cache_dir: *const c_char,
    error: *mut *mut c_char,
) -> *mut FpClient {
    run(error, std::ptr::null_mut(), || {
        // SAFETY: by this function's contract they are strings.
        let (endpoints, token_file, ca_file, cache_dir) = unsafe {
            (required(endpoints, "endpoints")?, optional(token_file)?, optional(ca_file)?, optional(cache_dir)?)
        };
        let mut options = HttpOptions::default();
        options.token = token_file.map(Token::from_file);
        options.ca = ca_file.map(Into::into);
        let mut builder = fingerpost_client::Client::builder().options(options);
        for endpoint in endpoints.split(',') {
            builder = builder.endpoint(endpoint.trim());
        }
        if let Some(folder) = cache_dir {
            builder = builder.cache_dir(folder);
        }
        let client = Client::new(builder).map_err(|error| error.to_string())?;
        Ok(Box::into_raw(Box::new(FpClient { client })))
    })
}

/// Frees a client. Subscriptions and registrations that were made with it go on. Null is fine.
///
/// # Safety
///
/// The client is one of this library's, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_client_free(client: *mut FpClient) {
    if !client.is_null() {
        // SAFETY: by this function's contract the pointer came from `Box::into_raw`.
        drop(unsafe { Box::from_raw(client) });
    }
}
