//! What is counted, by Envoy's names.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::histogram::Histogram;
use super::snapshot::{Kind, Sample, Snapshot};

/// A number that grows, of one thread.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that comes and goes, of one thread.
#[derive(Debug, Default)]
pub struct Gauge(Cell<i64>);

impl Gauge {
    pub fn inc(&self) {
        self.0.set(self.0.get() + 1);
    }

    pub fn dec(&self) {
        self.0.set(self.0.get() - 1);
    }

    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

macro_rules! stats {
    ($(#[$doc:meta])* $name:ident in $prefix:literal by $tag:literal {
        counters { $($counter:ident = $cname:literal),* $(,)? }
        gauges { $($gauge:ident = $gname:literal),* $(,)? }
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(pub $counter: Counter,)*
            $(pub $gauge: Gauge,)*
            codes: RefCell<Vec<(u16, u64)>>,
            pub time: RefCell<Option<Box<Histogram>>>,
        }

        impl $name {
            /// Everything that was counted, under the name of its owner.
            pub fn collect(&self, owner: &Arc<str>, into: &mut Snapshot) {
                $(into.push(Sample::new($prefix, $tag, owner, $cname, Kind::Counter, self.$counter.get() as i64));)*
                $(into.push(Sample::new($prefix, $tag, owner, $gname, Kind::Gauge, self.$gauge.get()));)*
                for (code, n) in self.codes.borrow().iter() {
                    into.push_code($prefix, $tag, owner, *code, *n);
                }
                if let Some(histogram) = self.time.borrow().as_deref() {
                    into.push_histogram($prefix, $tag, owner, histogram);
                }
            }

            /// Counts an answer by its status.
            #[allow(dead_code, reason = "not every owner answers")]
            pub fn code(&self, status: u16) {
                let mut codes = self.codes.borrow_mut();
                if let Some((_, n)) = codes.iter_mut().find(|(c, _)| *c == status) {
                    *n += 1;
                } else if codes.len() < 100 {
                    // An upstream may invent statuses; a hundred of them are enough.
                    codes.push((status, 1));
                }
            }

            /// Counts a time in milliseconds.
            #[allow(dead_code, reason = "not every owner takes time")]
            pub fn observe(&self, millis: f64) {
                self.time.borrow_mut().get_or_insert_default().record(millis);
            }
        }
    };
}

stats! {
    /// Of one cluster: `cluster.NAME.*`.
    ClusterStats in "cluster" by "envoy_cluster_name" {
        counters {
            cx_total = "upstream_cx_total", cx_http1_total = "upstream_cx_http1_total",
            cx_http2_total = "upstream_cx_http2_total", cx_connect_fail = "upstream_cx_connect_fail",
            cx_connect_timeout = "upstream_cx_connect_timeout", cx_overflow = "upstream_cx_overflow",
            cx_destroy = "upstream_cx_destroy", cx_idle_timeout = "upstream_cx_idle_timeout",
            cx_none_healthy = "upstream_cx_none_healthy",
            cx_rx_bytes = "upstream_cx_rx_bytes_total", cx_tx_bytes = "upstream_cx_tx_bytes_total",
            rq_total = "upstream_rq_total", rq_completed = "upstream_rq_completed",
            pending_total = "upstream_rq_pending_total", pending_overflow = "upstream_rq_pending_overflow",
            pending_failure_eject = "upstream_rq_pending_failure_eject",
            rq_cancelled = "upstream_rq_cancelled", rq_timeout = "upstream_rq_timeout",
            rq_per_try_timeout = "upstream_rq_per_try_timeout",
            rq_per_try_idle_timeout = "upstream_rq_per_try_idle_timeout", rq_rx_reset = "upstream_rq_rx_reset",
            rq_tx_reset = "upstream_rq_tx_reset", rq_retry = "upstream_rq_retry",
            rq_retry_success = "upstream_rq_retry_success", rq_retry_overflow = "upstream_rq_retry_overflow",
            rq_retry_limit_exceeded = "upstream_rq_retry_limit_exceeded",
            rq_maintenance = "upstream_rq_maintenance_mode",
            redirects_succeeded = "upstream_internal_redirect_succeeded_total",
            redirects_failed = "upstream_internal_redirect_failed_total",
            stale_replayed = "upstream_rq_stale_connection_replayed",
            ejections = "outlier_detection.ejections_enforced_total",
            subsets_selected = "lb_subsets_selected", subsets_fallback = "lb_subsets_fallback",
            subsets_fallback_panic = "lb_subsets_fallback_panic",
            lb_panic = "lb_healthy_panic", zone_direct = "lb_zone_routing_all_directly",
            zone_sampled = "lb_zone_routing_sampled", zone_cross = "lb_zone_routing_cross_zone",
            zone_no_capacity = "lb_zone_no_capacity_left",
            zone_recalculated = "lb_recalculate_zone_structures",
            zone_too_small = "lb_zone_cluster_too_small", zone_home_not_ok = "lb_local_cluster_not_ok",
            update_success = "update_success", assignment_stale = "assignment_stale",
        }
        gauges { cx_active = "upstream_cx_active", rq_active = "upstream_rq_active", rq_pending_active = "upstream_rq_pending_active" }
    }
}

stats! {
    /// Of one HTTP connection manager: `http.PREFIX.*`.
    HttpStats in "http" by "envoy_http_conn_manager_prefix" {
        counters {
            cx_total = "downstream_cx_total", cx_http1_total = "downstream_cx_http1_total",
            cx_http2_total = "downstream_cx_http2_total", cx_ssl_total = "downstream_cx_ssl_total",
            cx_destroy = "downstream_cx_destroy", cx_protocol_error = "downstream_cx_protocol_error",
            cx_idle_timeout = "downstream_cx_idle_timeout", cx_drain_close = "downstream_cx_drain_close",
            cx_upgrades_total = "downstream_cx_upgrades_total",
            cx_overload_disable_keepalive = "downstream_cx_overload_disable_keepalive",
            rq_overload_close = "downstream_rq_overload_close",
            rq_total = "downstream_rq_total", rq_http1_total = "downstream_rq_http1_total",
            rq_http2_total = "downstream_rq_http2_total", rq_rx_reset = "downstream_rq_rx_reset",
            rq_idle_timeout = "downstream_rq_idle_timeout", rq_timeout = "downstream_rq_timeout",
            rq_header_timeout = "downstream_rq_header_timeout",
            rq_max_duration = "downstream_rq_max_duration_reached",
            rq_completed = "downstream_rq_completed", no_route = "no_route", no_cluster = "no_cluster",
            rq_direct_response = "rq_direct_response", rq_redirect = "rq_redirect",
            rbac_allowed = "rbac.allowed", rbac_denied = "rbac.denied",
            jwt_allowed = "jwt_authn.allowed", jwt_denied = "jwt_authn.denied",
            jwt_preflights = "jwt_authn.cors_preflight_bypassed", jwt_cache_hit = "jwt_authn.jwt_cache_hit",
            jwt_cache_miss = "jwt_authn.jwt_cache_miss", jwks_fetch_success = "jwt_authn.jwks_fetch_success",
            jwks_fetch_failed = "jwt_authn.jwks_fetch_failed",
            csrf_valid = "csrf.request_valid", csrf_invalid = "csrf.request_invalid",
            csrf_missing = "csrf.missing_source_origin",
            fault_delays = "fault.delays_injected", fault_aborts = "fault.aborts_injected",
            redirect_bad_location = "passthrough_internal_redirect_bad_location",
            redirect_unsafe_scheme = "passthrough_internal_redirect_unsafe_scheme",
            redirect_too_many = "passthrough_internal_redirect_too_many_redirects",
            redirect_no_route = "passthrough_internal_redirect_no_route",
            redirect_predicate = "passthrough_internal_redirect_predicate",
            tracing_sampled = "tracing.random_sampling", tracing_not_traceable = "tracing.not_traceable",
        }
        gauges { cx_active = "downstream_cx_active", rq_active = "downstream_rq_active", cx_upgrades_active = "downstream_cx_upgrades_active" }
    }
}

stats! {
    /// Of one listener: `listener.ADDRESS.*`.
    ListenerStats in "listener" by "envoy_listener_address" {
        counters {
            cx_total = "downstream_cx_total", cx_destroy = "downstream_cx_destroy",
            no_filter_chain_match = "no_filter_chain_match", cx_overflow = "downstream_cx_overflow",
            cx_overload_reject = "downstream_cx_overload_reject",
            global_cx_overflow = "downstream_global_cx_overflow",
            ssl_handshake = "ssl.handshake", ssl_connection_error = "ssl.connection_error",
            pre_cx_timeout = "downstream_pre_cx_timeout", server_first = "server_first",
        }
        gauges { cx_active = "downstream_cx_active" }
    }
}

stats! {
    /// Of one TCP proxy: `tcp.PREFIX.*`.
    TcpStats in "tcp" by "envoy_tcp_prefix" {
        counters {
            cx_total = "downstream_cx_total", cx_no_route = "downstream_cx_no_route",
            rx_bytes = "downstream_cx_rx_bytes_total", tx_bytes = "downstream_cx_tx_bytes_total",
            idle_timeout = "idle_timeout", max_duration = "max_downstream_connection_duration", rbac_allowed = "rbac.allowed", rbac_denied = "rbac.denied",
        }
        gauges { cx_active = "downstream_cx_active" }
    }
}

stats! {
    /// Of the worker itself: `server.*` and our own.
    WorkerStats in "server" by "" {
        counters {
            log_lines = "access_log_lines", log_dropped = "access_log_dropped",
            spans_sent = "tracing_spans_sent", spans_dropped = "tracing_spans_dropped",
            series_dropped = "istio_series_dropped", mirror_dropped = "mirror_dropped",
            accept_errors = "accept_errors",
        }
        gauges { connections = "total_connections" }
    }
}
