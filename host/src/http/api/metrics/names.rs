//! What is told at `/metrics`: every name, with its labels and what it means. `docs/observability.md` has a row for each.

use crate::telemetry::{Kind, Metric};

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD: Gauge "portcullis_build_info" ["version"] "Always 1; the version that runs.";
    READY: Gauge "portcullis_ready" [] "Whether requests can be served.";
    STARTED: Gauge "process_start_time_seconds" [] "When the gateway started, in seconds since the epoch.";
    RESIDENT: Gauge "process_resident_memory_bytes" [] "Memory that the process has in RAM.";
    CPU: Counter "process_cpu_seconds_total" [] "Processor time that the process has used.";
    FILES: Gauge "process_open_fds" [] "File descriptors that are open.";
    MOST_FILES: Gauge "process_max_fds" [] "File descriptors that may be open.";
    THREADS: Gauge "process_threads" [] "Threads of the process.";

    OPEN: Gauge "portcullis_connections" ["listener"] "Connections that are open.";
    CONNECTIONS: Counter "portcullis_connections_total" ["listener", "fate"] "Connections that were accepted, refused because all places were taken, or cut for being slow.";
    RESPONSES: Counter "portcullis_http_responses_total" ["listener", "class"] "HTTP responses by class of status.";
    CERTIFICATE_ENDS: Gauge "portcullis_certificate_expiry_timestamp_seconds" ["listener"] "Until when the certificate counts that a listener shows, in seconds since the epoch; only where it speaks TLS.";

    REQUESTS: Counter "portcullis_requests_total" ["method", "outcome", "era"] "MCP requests by method, what came of them and the era of the caller's protocol revision.";
    REQUEST_TIME: Histogram "portcullis_request_seconds" ["method"] "From when an MCP request was understood to its answer.";
    STAGE_TIME: Histogram "portcullis_stage_seconds" ["stage"] "What finding out who calls, asking policies and waiting for upstreams took of a decided request.";
    DECISIONS: Counter "portcullis_decisions_total" ["operation", "verdict", "outcome"] "Decisions by what was decided on, the verdict and how it ended; oauth is what authority is asked for.";
    TOOL_CALLS: Counter "portcullis_tool_calls_total" ["upstream", "tool"] "Calls by tool, where metrics.tools is on.";
    SESSIONS: Gauge "portcullis_sessions" [] "MCP sessions of revisions that have sessions.";
    STREAMS: Gauge "portcullis_streams" [] "Event streams that are open.";
    PARKED: Gauge "portcullis_parked_calls" [] "Calls that wait for their callers to come back with what was asked.";
    TOOLS: Gauge "portcullis_tools" [] "Tools in the catalog.";

    GENERATION: Gauge "portcullis_policy_generation" [] "The number of the policy set in force.";
    ANSWERS: Counter "portcullis_policy_answers_total" ["binding", "hook", "verdict", "mode"] "Answers of policies since their binding was loaded.";
    FAILURES: Counter "portcullis_policy_failures_total" ["binding", "hook", "failure"] "Policies that failed, by how.";
    POLICY_TIME: Histogram "portcullis_policy_seconds" ["binding", "hook"] "What asking a policy took.";
    DEGRADED: Gauge "portcullis_policy_degraded" ["binding"] "Whether the last runs of a policy all failed.";

    UPSTREAM_UP: Gauge "portcullis_upstream_up" ["upstream"] "Whether an upstream was reached when it was last tried.";
    UPSTREAM_WAITING: Gauge "portcullis_upstream_requests_in_flight" ["upstream"] "Requests that wait for an upstream.";
    UPSTREAM_TIME: Histogram "portcullis_upstream_seconds" ["upstream", "method", "outcome"] "What upstreams took to answer, since they were declared as they are.";
    UPSTREAM_FAILURES: Counter "portcullis_upstream_failures_total" ["upstream", "failure"] "Requests that an upstream did not answer, by what went wrong.";

    LOOKUPS: Counter "portcullis_credential_lookups_total" ["result"] "Looks for an upstream credential in memory: hit or miss.";
    RENEWALS: Counter "portcullis_credential_renewals_total" ["outcome"] "Renewals of upstream credentials: done, put off until later, lost for good, or prevented by a fault.";
    TOKENS: Counter "portcullis_token_requests_total" ["grant_type", "outcome"] "Requests to the token endpoint.";
    SIGN_INS: Counter "portcullis_sign_ins_total" ["way", "outcome"] "Sign-ins of people; waiting is who tried too often.";
    VAULT_FAULTS: Counter "portcullis_vault_faults_total" ["kind"] "Secrets that could not be sealed or opened, by why.";

    STORE_REACHABLE: Gauge "portcullis_store_reachable" [] "Whether the store could be reached when that was last tried.";
    STORE_STALENESS: Gauge "portcullis_store_staleness_seconds" [] "How long changes of other gateways may have gone unnoticed; only where the store is shared.";
    STORE_QUEUE: Gauge "portcullis_store_queue" [] "Transactions that wait to be written.";
    STORE_TRANSACTIONS: Counter "portcullis_store_transactions_total" [] "Transactions that ran.";
    STORE_COMMITS: Counter "portcullis_store_commits_total" ["outcome"] "Commits, each of one or more transactions: done or failed.";
    STORE_COMMIT_TIME: Histogram "portcullis_store_commit_seconds" [] "What commits took.";
    CLOCK: Gauge "portcullis_store_clock_offset_seconds" [] "What is added to this machine's clock to tell the store's time.";
    SWEEPING: Gauge "portcullis_sweeper_active" [] "Whether this gateway is the one that forgets what has expired.";
    SWEPT: Counter "portcullis_swept_total" [] "Records that were forgotten.";
    SWEEPER_LAG: Gauge "portcullis_sweeper_lag_seconds" [] "Since when the sweeper has not come to the end of a pass; only where it sweeps.";

    DECISIONS_DROPPED: Counter "portcullis_decisions_dropped_total" [] "Decisions that are not in the trail because the queue was full.";
    RECORDINGS_DROPPED: Counter "portcullis_recordings_dropped_total" [] "Recordings of decisions that were dropped because the queue was full.";
    SPANS: Counter "portcullis_spans_total" ["fate"] "Spans of traces: sent, dropped because the queue was full, or failed because the collector did not take them.";
    EXPORTED: Counter "portcullis_audit_exported_total" [] "Rows of the audit trail that were copied.";
    EXPORT_FAILURES: Counter "portcullis_audit_export_failures_total" [] "Tries to copy rows of the audit trail that failed.";
    EXPORT_LAG: Gauge "portcullis_audit_export_lag_seconds" [] "Since when the copy of the audit trail has not caught up.";
}
