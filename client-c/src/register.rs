//! Registrations.

use crate::FpClient;
use crate::call::{known, required, run};
use crate::subscribe::{millis, waited};
use fingerpost_client::blocking::Registration;
use fingerpost_client::catalog::document::{InstanceDocument, NewSession};
use std::ffi::c_char;

/// An instance that is registered for as long as this lives.
pub struct FpRegistration {
    registration: Registration,
}

/// Registers an instance, given as JSON as the REST API takes it, with `namespace`, `service` and `id`. It is kept there by a
/// session of `ttl_seconds` (0: 15), renewed in time, and brought back where the registry forgets it. At its end it is drained
/// for `grace_ms` milliseconds first. Returns at once; see `fp_registration_wait`. Null where something is wrong.
///
/// # Safety
///
/// The client is one of this library's; the string ends with 0; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_register(
    client: *const FpClient,
    instance: *const c_char,
    ttl_seconds: u32,
    grace_ms: u32,
    error: *mut *mut c_char,
) -> *mut FpRegistration {
    run(error, std::ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let (client, instance) = unsafe { (known(client, "client")?, required(instance, "instance")?) };
        let instance: InstanceDocument =
            serde_json::from_str(instance).map_err(|error| format!("the instance can't be read: {error}"))?;
        let mut session = NewSession::default();
        if ttl_seconds != 0 {
            session.ttl_seconds = ttl_seconds;
        }
        let registered = client.client.register(instance, |how| how.session(session).grace(millis(grace_ms)));
        let registration = registered.map_err(|error| error.to_string())?;
        Ok(Box::into_raw(Box::new(FpRegistration { registration })))
    })
}

/// Waits until the registry has taken the instance: 1. After `timeout_ms` milliseconds: 0; it goes on trying. -1 where the
/// registry refuses.
///
/// # Safety
///
/// The registration is one of this library's; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_registration_wait(
    registration: *const FpRegistration,
    timeout_ms: u32,
    error: *mut *mut c_char,
) -> i32 {
    run(error, -1, || {
        // SAFETY: by this function's contract.
        let registration = unsafe { known(registration, "registration") }?;
        waited(registration.registration.registered(millis(timeout_ms)))
    })
}

/// Drains the instance, waits for the grace, takes it out, and frees the registration: 1. Where that takes longer than
/// `timeout_ms` milliseconds: 0; it is freed all the same, and goes on by itself. Null is fine.
///
/// # Safety
///
/// The registration is one of this library's, and is not used again; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_registration_end(
    registration: *mut FpRegistration,
    timeout_ms: u32,
    error: *mut *mut c_char,
) -> i32 {
    if registration.is_null() {
        return 1;
    }
    // SAFETY: by this function's contract the pointer came from `Box::into_raw`.
    let registration = unsafe { Box::from_raw(registration) }.registration;
    run(error, -1, || waited(registration.end(millis(timeout_ms))))
}
