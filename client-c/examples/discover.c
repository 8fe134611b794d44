/* Registers itself, finds itself, and leaves. Usage: discover URL. Exits with 0 where all of it went well. */
#include "fingerpost.h"
#include <stdio.h>
#include <string.h>

static int fail(const char *what, char *error) {
    fprintf(stderr, "%s: %s\n", what, error ? error : "no reason given");
    fp_string_free(error);
    return 1;
}

int main(int argc, char **argv) {
    char *error = NULL;
    if (argc != 2) return fail("usage: discover URL", NULL);
    FpClient *client = fp_client_new(argv[1], NULL, NULL, NULL, &error);
    if (!client) return fail("client", error);
    FpRegistration *me = fp_register(client,
        "{\"namespace\": \"prod\", \"service\": \"c\", \"id\": \"c-1\", \"addresses\": [\"10.9.8.7\"],"
        " \"ports\": [{\"name\": \"http\", \"port\": 8080}]}", 5, 0, &error);
    if (!me) return fail("register", error);
    if (fp_registration_wait(me, 10000, &error) != 1) return fail("registered", error);

    FpSubscription *service = fp_subscribe(client, "prod/c", NULL, &error);
    if (!service) return fail("subscribe", error);
    if (fp_subscription_synced(service, 10000, &error) != 1) return fail("synced", error);
    FpPick *pick = fp_pick(service, "http", &error);
    if (!pick) return fail("pick", error);
    printf("%s\n", fp_pick_address(pick));
    if (strcmp(fp_pick_address(pick), "10.9.8.7:8080") != 0) return fail("address", NULL);
    fp_pick_end(pick, 1);

    /* What is wrong is said, and nothing else happens. */
    if (fp_subscribe(client, "no service", NULL, &error)) return fail("a bad name was taken", NULL);
    fprintf(stderr, "as expected: %s\n", error);
    fp_string_free(error);
    error = NULL;

    if (fp_registration_end(me, 10000, &error) != 1) return fail("end", error);
    char *json = fp_lookup(client, "prod/c", 10000, &error);
    if (!json) return fail("lookup", error);
    printf("%s\n", json);
    fp_string_free(json);
    fp_subscription_free(service);
    fp_client_free(client);
    return 0;
}
