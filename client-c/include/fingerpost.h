/* Fingerpost's client for C. Made by cbindgen from client-c/src; see docs/client.md. */

#ifndef FINGERPOST_H
#define FINGERPOST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 A client of a registry.
 */
typedef struct FpClient FpClient;

/*
 An endpoint that was picked for one request.
 */
typedef struct FpPick FpPick;

/*
 An instance that is registered for as long as this lives.
 */
typedef struct FpRegistration FpRegistration;

/*
 A subscription to a service.
 */
typedef struct FpSubscription FpSubscription;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Frees a string that a function of this library returned. Null is fine.

 # Safety

 The string is one of this library's, and is not used again.
 */
void fp_string_free(char *string);

/*
 A client of the registry at these endpoints: URLs with commas between them. `token_file`, `ca_file` and `cache_dir` may
 be null: no token, the system's CAs, no memory on disk. Does not connect yet. Null where something is wrong.

 # Safety

 The strings end with 0; `error` is null or may be written to.
 */
FpClient *fp_client_new(const char *endpoints,
                        const char *token_file,
                        const char *ca_file,
                        const char *cache_dir,
                        char **error);

/*
 Frees a client. Subscriptions and registrations that were made with it go on. Null is fine.

 # Safety

 The client is one of this library's, and is not used again.
 */
void fp_client_free(FpClient *client);

/*
 Registers an instance, given as JSON as the REST API takes it, with `namespace`, `service` and `id`. It is kept there by a
 session of `ttl_seconds` (0: 15), renewed in time, and brought back where the registry forgets it. At its end it is drained
 for `grace_ms` milliseconds first. Returns at once; see `fp_registration_wait`. Null where something is wrong.

 # Safety

 The client is one of this library's; the string ends with 0; `error` is null or may be written to.
 */
FpRegistration *fp_register(const FpClient *client,
                            const char *instance,
                            uint32_t ttl_seconds,
                            uint32_t grace_ms,
                            char **error);

/*
 Waits until the registry has taken the instance: 1. After `timeout_ms` milliseconds: 0; it goes on trying. -1 where the
 registry refuses.

 # Safety

 The registration is one of this library's; `error` is null or may be written to.
 */
int32_t fp_registration_wait(const FpRegistration *registration, uint32_t timeout_ms, char **error);

/*
 Drains the instance, waits for the grace, takes it out, and frees the registration: 1. Where that takes longer than
 `timeout_ms` milliseconds: 0; it is freed all the same, and goes on by itself. Null is fine.

 # Safety

 The registration is one of this library's, and is not used again; `error` is null or may be written to.
 */
int32_t fp_registration_end(FpRegistration *registration, uint32_t timeout_ms, char **error);

/*
 Subscribes to a service, `NAMESPACE/SERVICE`. `selector` may be null: all instances. Returns at once; see
 `fp_subscription_synced`. Null where something is wrong.

 # Safety

 The client is one of this library's; the strings end with 0; `error` is null or may be written to.
 */
FpSubscription *fp_subscribe(const FpClient *client, const char *target, const char *selector, char **error);

/*
 Ends a subscription. Null is fine.

 # Safety

 The subscription is one of this library's, and is not used again.
 */
void fp_subscription_free(FpSubscription *subscription);

/*
 Waits until the registry has told all of it: 1. After `timeout_ms` milliseconds: 0. -1 where the registry refuses.

 # Safety

 The subscription is one of this library's; `error` is null or may be written to.
 */
int32_t fp_subscription_synced(const FpSubscription *subscription, uint32_t timeout_ms, char **error);

/*
 Waits for something new: 1. Where nothing came in `timeout_ms` milliseconds: 0. -1 where the registry refuses. What came
 before this call is not new: compare `fp_subscription_json` where that matters.

 # Safety

 The subscription is one of this library's; `error` is null or may be written to.
 */
int32_t fp_subscription_changed(const FpSubscription *subscription,
                                uint32_t timeout_ms,
                                char **error);

/*
 The endpoints as they are known now, as JSON: `{"freshness": "live", "position": …, "endpoints": [instance, …]}`, each
 instance as the REST API shows it. Never waits; free it by `fp_string_free`. Null where something is wrong.

 # Safety

 The subscription is one of this library's; `error` is null or may be written to.
 */
char *fp_subscription_json(const FpSubscription *subscription,
                           char **error);

/*
 Looks a service up once, as `fp_subscription_json` shows it. Waits for the registry for `timeout_ms` milliseconds at most.
 For more than one look, subscribe. Null where something is wrong, or where the registry did not answer in time and
 nothing is remembered.

 # Safety

 The client is one of this library's; the strings end with 0; `error` is null or may be written to.
 */
char *fp_lookup(const FpClient *client,
                const char *target,
                uint32_t timeout_ms,
                char **error);

/*
 Picks an endpoint for a request. `port` may be null: the first. Null, and no error, where no endpoint works. End it by
 `fp_pick_end`.

 # Safety

 The subscription is one of this library's; the string ends with 0; `error` is null or may be written to.
 */
FpPick *fp_pick(const FpSubscription *subscription, const char *port, char **error);

/*
 Where the picked endpoint is: `10.0.0.1:8080` or `[fd00::1]:8080`. Valid until the pick is ended. Null for null.

 # Safety

 The pick is one of this library's.
 */
const char *fp_pick_address(const FpPick *pick);

/*
 Says how the request ended, and frees the pick: 1, it was answered; 0, it failed and the endpoint is to blame; anything
 else, neither. Null is fine.

 # Safety

 The pick is one of this library's, and is not used again.
 */
void fp_pick_end(FpPick *pick, int32_t outcome);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FINGERPOST_H */
