//! Subscriptions, and picks from them.

use crate::FpClient;
use crate::call::{Failure, known, optional, required, run, string};
use fingerpost_client::balance::{Balancer, Pick};
use fingerpost_client::blocking::Subscription;
use fingerpost_client::{Endpoints, Error, Freshness, LiveBalancer};
use std::ffi::{CString, c_char};
use std::time::Duration;

/// A subscription to a service.
pub struct FpSubscription {
    subscription: Subscription,
    balancer: LiveBalancer,
}

/// An endpoint that was picked for one request.
pub struct FpPick {
    pick: Pick,
    address: CString,
}

/// Subscribes to a service, `NAMESPACE/SERVICE`. `selector` may be null: all instances. Returns at once; see
/// `fp_subscription_synced`. Null where something is wrong.
///
/// # Safety
///
/// The client is one of this library's; the strings end with 0; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_subscribe(
    client: *const FpClient,
    target: *const c_char,
    selector: *const c_char,
    error: *mut *mut c_char,
) -> *mut FpSubscription {
    run(error, std::ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let (client, target, selector) =
            unsafe { (known(client, "client")?, required(target, "target")?, optional(selector)?) };
        let subscription = client.client.watch(target, selector).map_err(|error| error.to_string())?;
        let balancer = subscription.balance(Balancer::default());
        Ok(Box::into_raw(Box::new(FpSubscription { subscription, balancer })))
    })
}

/// Ends a subscription. Null is fine.
///
/// # Safety
///
/// The subscription is one of this library's, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_subscription_free(subscription: *mut FpSubscription) {
    if !subscription.is_null() {
        // SAFETY: by this function's contract the pointer came from `Box::into_raw`.
        drop(unsafe { Box::from_raw(subscription) });
    }
}

/// Waits until the registry has told all of it: 1. After `timeout_ms` milliseconds: 0. -1 where the registry refuses.
///
/// # Safety
///
/// The subscription is one of this library's; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_subscription_synced(
    subscription: *const FpSubscription,
    timeout_ms: u32,
    error: *mut *mut c_char,
) -> i32 {
    run(error, -1, || {
        // SAFETY: by this function's contract.
        let subscription = unsafe { known(subscription, "subscription") }?;
        waited(subscription.subscription.synced(millis(timeout_ms)))
    })
}

/// Waits for something new: 1. Where nothing came in `timeout_ms` milliseconds: 0. -1 where the registry refuses. What came
/// before this call is not new: compare `fp_subscription_json` where that matters.
///
/// # Safety
///
/// The subscription is one of this library's; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_subscription_changed(
    subscription: *const FpSubscription,
    timeout_ms: u32,
    error: *mut *mut c_char,
) -> i32 {
    run(error, -1, || {
        // SAFETY: by this function's contract.
        let subscription = unsafe { known(subscription, "subscription") }?;
        waited(subscription.subscription.clone().changed(millis(timeout_ms)).map(drop))
    })
}

/// The endpoints as they are known now, as JSON: `{"freshness": "live", "position": …, "endpoints": [instance, …]}`, each
/// instance as the REST API shows it. Never waits; free it by `fp_string_free`. Null where something is wrong.
///
/// # Safety
///
/// The subscription is one of this library's; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_subscription_json(
    subscription: *const FpSubscription,
    error: *mut *mut c_char,
) -> *mut c_char {
    run(error, std::ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let subscription = unsafe { known(subscription, "subscription") }?;
        Ok(string(&json(&subscription.subscription.current())))
    })
}

/// Looks a service up once, as `fp_subscription_json` shows it. Waits for the registry for `timeout_ms` milliseconds at most.
/// For more than one look, subscribe. Null where something is wrong, or where the registry did not answer in time and
/// nothing is remembered.
///
/// # Safety
///
/// The client is one of this library's; the strings end with 0; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_lookup(
    client: *const FpClient,
    target: *const c_char,
    timeout_ms: u32,
    error: *mut *mut c_char,
) -> *mut c_char {
    run(error, std::ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let (client, target) = unsafe { (known(client, "client")?, required(target, "target")?) };
        let subscription = client.client.watch(target, None).map_err(|error| error.to_string())?;
        let synced = subscription.synced(millis(timeout_ms));
        let current = subscription.current();
        match synced {
            Err(error) if current.is_empty() => Err(error.to_string()),
            _ => Ok(string(&json(&current))),
        }
    })
}

/// Picks an endpoint for a request. `port` may be null: the first. Null, and no error, where no endpoint works. End it by
/// `fp_pick_end`.
///
/// # Safety
///
/// The subscription is one of this library's; the string ends with 0; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_pick(
    subscription: *const FpSubscription,
    port: *const c_char,
    error: *mut *mut c_char,
) -> *mut FpPick {
    run(error, std::ptr::null_mut(), || {
        // SAFETY: by this function's contract.
        let (subscription, port) = unsafe { (known(subscription, "subscription")?, optional(port)?) };
        let Some(pick) = subscription.balancer.pick() else { return Ok(std::ptr::null_mut()) };
        let address = pick.socket_addr(port).ok_or_else(|| match port {
            Some(port) => format!("endpoint {} has no port `{port}`", pick.key()),
            None => format!("endpoint {} has no port", pick.key()),
        })?;
        let address = CString::new(address.to_string()).map_err(|error| error.to_string())?;
        Ok(Box::into_raw(Box::new(FpPick { pick, address })))
    })
}

/// Where the picked endpoint is: `10.0.0.1:8080` or `[fd00::1]:8080`. Valid until the pick is ended. Null for null.
///
/// # Safety
///
/// The pick is one of this library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_pick_address(pick: *const FpPick) -> *const c_char {
    // SAFETY: by this function's contract.
    match unsafe { known(pick, "pick") } {
        Ok(pick) => pick.address.as_ptr(),
        Err(_) => std::ptr::null(),
    }
}

/// Says how the request ended, and frees the pick: 1, it was answered; 0, it failed and the endpoint is to blame; anything
/// else, neither. Null is fine.
///
/// # Safety
///
/// The pick is one of this library's, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fp_pick_end(pick: *mut FpPick, outcome: i32) {
    if pick.is_null() {
        return;
    }
    // SAFETY: by this function's contract the pointer came from `Box::into_raw`.
    let pick = unsafe { Box::from_raw(pick) }.pick;
    match outcome {
        1 => pick.success(),
        0 => pick.failure(),
        _ => drop(pick),
    }
}

pub(crate) fn millis(timeout: u32) -> Duration {
    Duration::from_millis(u64::from(timeout))
}

/// 1 in time, 0 too late.
pub(crate) fn waited(outcome: fingerpost_client::Result<()>) -> Result<i32, Failure> {
    match outcome {
        Ok(()) => Ok(1),
        Err(Error::Unavailable { .. }) => Ok(0),
        Err(error) => Err(error.to_string()),
    }
}

fn json(endpoints: &Endpoints) -> String {
    let freshness = match endpoints.freshness() {
        Freshness::Live if endpoints.position().is_none() => "unknown",
        Freshness::Live => "live",
        Freshness::Kept => "kept",
        Freshness::Cached { .. } => "cached",
        _ => "other",
    };
    let documents: Vec<_> = endpoints.iter().map(|endpoint| &**endpoint.document()).collect();
    serde_json::json!({
        "freshness": freshness,
        "position": endpoints.position().map(|position| position.to_string()),
        "endpoints": documents,
    })
    .to_string()
}
