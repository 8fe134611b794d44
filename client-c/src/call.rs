//! The border: strings and pointers in, results and messages out, and no panic across.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a call failed, for people.
pub(crate) type Failure = String;

/// Runs a call; where it fails, writes why, and returns `failed`.
pub(crate) fn run<T>(error: *mut *mut c_char, failed: T, call: impl FnOnce() -> Result<T, Failure>) -> T {
    let outcome = catch_unwind(AssertUnwindSafe(call));
    let message = match outcome {
        Ok(Ok(value)) => return value,
        Ok(Err(message)) => message,
        Err(_) => "this is a bug in the Fingerpost client: it panicked".to_owned(),
    };
    if !error.is_null() {
        // SAFETY: every function that passes `error` on demands that it may be written to.
        unsafe { *error = string(&message) };
    }
    failed
}

/// A string for C, which [`fp_string_free`](crate::fp_string_free) frees. What follows a 0 within is cut off.
pub(crate) fn string(text: &str) -> *mut c_char {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default().into_raw()
}

/// A string from C, if there is one.
///
/// # Safety
///
/// It is null, or ends with 0 and lives as long as what is returned.
pub(crate) unsafe fn optional<'a>(string: *const c_char) -> Result<Option<&'a str>, Failure> {
    if string.is_null() {
        return Ok(None);
    }
    // SAFETY: by this function's contract.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_str().map(Some).map_err(|_| "a string is not UTF-8".to_owned())
}

/// A string from C.
///
/// # Safety
///
/// As for [`optional`].
pub(crate) unsafe fn required<'a>(string: *const c_char, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: by this function's contract.
    unsafe { optional(string) }?.ok_or_else(|| format!("{what} is null"))
}

/// What a pointer from C points to.
///
/// # Safety
///
/// It is null, or one of this library's that is not freed yet.
pub(crate) unsafe fn known<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: by this function's contract.
    unsafe { pointer.as_ref() }.ok_or_else(|| format!("{what} is null"))
}
