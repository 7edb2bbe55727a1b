//! Which fields of Envoy's messages are honoured, and which may be set without effect here, and why.

/// A line a message: its full name, then the fields that are honoured. Everything else is refused by its path.
pub(super) const HONOURED: &str = "\
envoy.config.accesslog.v3.AccessLog: filter name typed_config
envoy.config.accesslog.v3.AccessLogFilter: and_filter duration_filter extension_filter grpc_status_filter \
    header_filter log_type_filter metadata_filter not_health_check_filter or_filter response_flag_filter \
    runtime_filter status_code_filter traceable_filter
envoy.config.accesslog.v3.AndFilter: filters
envoy.config.accesslog.v3.ComparisonFilter: op value
envoy.config.accesslog.v3.DurationFilter: comparison
envoy.config.accesslog.v3.ExtensionFilter: name typed_config
envoy.config.accesslog.v3.GrpcStatusFilter: exclude statuses
envoy.config.accesslog.v3.HeaderFilter: header
envoy.config.accesslog.v3.LogTypeFilter: exclude types
envoy.config.accesslog.v3.MetadataFilter: match_if_key_not_found matcher
envoy.config.accesslog.v3.NotHealthCheckFilter:
envoy.config.accesslog.v3.OrFilter: filters
envoy.config.accesslog.v3.ResponseFlagFilter: flags
envoy.config.accesslog.v3.RuntimeFilter: percent_sampled
envoy.config.accesslog.v3.StatusCodeFilter: comparison
envoy.config.accesslog.v3.TraceableFilter:
envoy.config.cluster.v3.CircuitBreakers: thresholds
envoy.config.cluster.v3.CircuitBreakers.Thresholds: max_connections max_pending_requests max_requests \
    max_retries priority retry_budget
envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget: budget_percent min_retry_concurrency
envoy.config.cluster.v3.Cluster: alt_stat_name circuit_breakers cluster_type common_http_protocol_options \
    common_lb_config connect_timeout dns_jitter dns_lookup_family dns_refresh_rate eds_cluster_config filters \
    health_checks http2_protocol_options http_protocol_options ignore_health_on_host_removal lb_policy \
    lb_subset_config least_request_lb_config load_assignment load_balancing_policy \
    maglev_lb_config max_requests_per_connection metadata name original_dst_lb_config outlier_detection \
    per_connection_buffer_limit_bytes protocol_selection respect_dns_ttl ring_hash_lb_config \
    round_robin_lb_config transport_socket transport_socket_matches type typed_extension_protocol_options \
    upstream_bind_config upstream_connection_options upstream_http_protocol_options
envoy.config.cluster.v3.Cluster.CommonLbConfig: consistent_hashing_lb_config healthy_panic_threshold \
    locality_weighted_lb_config zone_aware_lb_config
envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig: use_hostname_for_hashing
envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig:
envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig: fail_traffic_on_panic min_cluster_size \
    routing_enabled
envoy.config.cluster.v3.Cluster.CustomClusterType: name typed_config
envoy.config.cluster.v3.Cluster.EdsClusterConfig: eds_config service_name
envoy.config.cluster.v3.Cluster.LbSubsetConfig: default_subset fallback_policy list_as_any locality_weight_aware \
    panic_mode_any scale_locality_weight subset_selectors
envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector: fallback_keys_subset fallback_policy keys \
    single_host_per_subset
envoy.config.cluster.v3.Cluster.LeastRequestLbConfig: choice_count slow_start_config
envoy.config.cluster.v3.Cluster.MaglevLbConfig: table_size
envoy.config.cluster.v3.Cluster.OriginalDstLbConfig: http_header_name upstream_port_override use_http_header
envoy.config.cluster.v3.Cluster.RefreshRate: base_interval max_interval
envoy.config.cluster.v3.Cluster.RingHashLbConfig: hash_function maximum_ring_size minimum_ring_size
envoy.config.cluster.v3.Cluster.RoundRobinLbConfig: slow_start_config
envoy.config.cluster.v3.Cluster.SlowStartConfig: aggression min_weight_percent slow_start_window
envoy.config.cluster.v3.Cluster.TransportSocketMatch: match name transport_socket
envoy.config.cluster.v3.Filter: name typed_config
envoy.config.cluster.v3.LoadBalancingPolicy: policies
envoy.config.cluster.v3.LoadBalancingPolicy.Policy: typed_extension_config
envoy.config.cluster.v3.OutlierDetection: always_eject_one_host base_ejection_time consecutive_5xx \
    consecutive_gateway_failure consecutive_local_origin_failure enforcing_consecutive_5xx \
    enforcing_consecutive_gateway_failure enforcing_consecutive_local_origin_failure \
    enforcing_failure_percentage enforcing_failure_percentage_local_origin enforcing_local_origin_success_rate \
    enforcing_success_rate failure_percentage_minimum_hosts failure_percentage_request_volume \
    failure_percentage_threshold interval max_ejection_percent max_ejection_time max_ejection_time_jitter \
    split_external_local_origin_errors success_rate_minimum_hosts success_rate_request_volume \
    success_rate_stdev_factor successful_active_health_check_uneject_host
envoy.config.cluster.v3.UpstreamConnectionOptions: tcp_keepalive
envoy.config.common.mutation_rules.v3.HeaderMutationRules: allow_all_routing allow_envoy allow_expression \
    disallow_all disallow_expression disallow_is_error disallow_system
envoy.config.core.v3.Address: pipe socket_address
envoy.config.core.v3.AggregatedConfigSource:
envoy.config.core.v3.ApiConfigSource: api_type cluster_names grpc_services refresh_delay \
    request_timeout
envoy.config.core.v3.BindConfig: socket_options source_address
envoy.config.core.v3.CidrRange: address_prefix prefix_len
envoy.config.core.v3.ConfigSource: ads api_config_source path path_config_source
envoy.config.core.v3.DataSource: environment_variable filename inline_bytes inline_string
envoy.config.core.v3.GrpcService: envoy_grpc initial_metadata timeout
envoy.config.core.v3.GrpcService.EnvoyGrpc: authority cluster_name
envoy.config.core.v3.HeaderValue: key value
envoy.config.core.v3.HeaderValueOption: append append_action header keep_empty_value
envoy.config.core.v3.HealthCheck: grpc_health_check healthy_edge_interval healthy_threshold http_health_check \
    initial_jitter interval interval_jitter interval_jitter_percent no_traffic_healthy_interval \
    no_traffic_interval reuse_connection tcp_health_check timeout tls_options transport_socket_match_criteria \
    unhealthy_edge_interval unhealthy_interval unhealthy_threshold
envoy.config.core.v3.HealthCheck.GrpcHealthCheck: authority initial_metadata service_name
envoy.config.core.v3.HealthCheck.HttpHealthCheck: codec_client_type expected_statuses host method path receive \
    request_headers_to_add request_headers_to_remove response_buffer_size retriable_statuses send \
    service_name_matcher
envoy.config.core.v3.HealthCheck.Payload: binary text
envoy.config.core.v3.HealthCheck.TcpHealthCheck: receive send
envoy.config.core.v3.HealthCheck.TlsOptions: alpn_protocols
envoy.config.core.v3.Http1ProtocolOptions: accept_http_10 default_host_for_http_10
envoy.config.core.v3.Http2ProtocolOptions: allow_connect connection_keepalive initial_connection_window_size \
    initial_stream_window_size max_concurrent_streams
envoy.config.core.v3.HttpProtocolOptions: idle_timeout max_connection_duration max_headers_count \
    max_requests_per_connection max_stream_duration
envoy.config.core.v3.HttpService: http_uri request_headers_to_add
envoy.config.core.v3.HttpUri: cluster timeout uri
envoy.config.core.v3.KeepaliveSettings: interval timeout
envoy.config.core.v3.Locality: region sub_zone zone
envoy.config.core.v3.Metadata: filter_metadata
envoy.config.core.v3.PathConfigSource: path watched_directory
envoy.config.core.v3.Pipe: path
envoy.config.core.v3.RuntimeDouble: default_value
envoy.config.core.v3.RuntimeFeatureFlag: default_value
envoy.config.core.v3.RuntimeFractionalPercent: default_value
envoy.config.core.v3.RuntimePercent: default_value
envoy.config.core.v3.RuntimeUInt32: default_value
envoy.config.core.v3.SchemeHeaderTransformation: scheme_to_overwrite
envoy.config.core.v3.SocketAddress: address port_value
envoy.config.core.v3.SocketOption: buf_value int_value level name state
envoy.config.core.v3.SubstitutionFormatString: content_type formatters json_format omit_empty_values text_format \
    text_format_source
envoy.config.core.v3.TcpKeepalive: keepalive_interval keepalive_probes keepalive_time
envoy.config.core.v3.TransportSocket: name typed_config
envoy.config.core.v3.TypedExtensionConfig: name typed_config
envoy.config.core.v3.UpstreamHttpProtocolOptions: auto_san_validation auto_sni
envoy.config.core.v3.WatchedDirectory: path
envoy.config.endpoint.v3.ClusterLoadAssignment: cluster_name endpoints policy
envoy.config.endpoint.v3.ClusterLoadAssignment.Policy: drop_overloads overprovisioning_factor
envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload: drop_percentage
envoy.config.endpoint.v3.Endpoint: address health_check_config hostname
envoy.config.endpoint.v3.Endpoint.HealthCheckConfig: address disable_active_health_check hostname port_value
envoy.config.endpoint.v3.LbEndpoint: endpoint health_status load_balancing_weight metadata
envoy.config.endpoint.v3.LocalityLbEndpoints: lb_endpoints load_balancing_weight locality priority
envoy.config.listener.v3.AdditionalAddress: address
envoy.config.listener.v3.Filter: name typed_config
envoy.config.listener.v3.FilterChain: filter_chain_match filters metadata name transport_socket \
    transport_socket_connect_timeout
envoy.config.listener.v3.FilterChainMatch: application_protocols destination_port direct_source_prefix_ranges \
    prefix_ranges server_names source_ports source_prefix_ranges source_type transport_protocol
envoy.config.listener.v3.Listener: access_log additional_addresses address bind_to_port \
    continue_on_listener_filters_timeout default_filter_chain deprecated_v1 filter_chains freebind \
    listener_filters listener_filters_timeout metadata name per_connection_buffer_limit_bytes stat_prefix \
    tcp_backlog_size tcp_keepalive traffic_direction transparent use_original_dst
envoy.config.listener.v3.Listener.DeprecatedV1: bind_to_port
envoy.config.listener.v3.ListenerFilter: filter_disabled name typed_config
envoy.config.listener.v3.ListenerFilterChainMatchPredicate: and_match any_match destination_port_range not_match \
    or_match
envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet: rules
envoy.config.ratelimit.v3.RateLimitServiceConfig: grpc_service
envoy.config.rbac.v3.Permission: and_rules any destination_ip destination_port destination_port_range header metadata not_rule or_rules requested_server_name sourced_metadata uri_template url_path
envoy.config.rbac.v3.Permission.Set: rules
envoy.config.rbac.v3.Policy: permissions principals
envoy.config.rbac.v3.Principal: and_ids any authenticated direct_remote_ip filter_state header metadata not_id \
    or_ids remote_ip source_ip sourced_metadata url_path
envoy.config.rbac.v3.Principal.Authenticated: principal_name
envoy.config.rbac.v3.Principal.Set: ids
envoy.config.rbac.v3.RBAC: action policies
envoy.config.rbac.v3.SourcedMetadata: metadata_matcher metadata_source
envoy.config.route.v3.CookieMatcher: invert_match name string_match
envoy.config.route.v3.CorsPolicy: allow_credentials allow_headers allow_methods allow_origin_string_match \
    allow_private_network_access expose_headers filter_enabled forward_not_matching_preflights max_age
envoy.config.route.v3.Decorator: operation
envoy.config.route.v3.DirectResponseAction: body status
envoy.config.route.v3.FilterConfig: config disabled is_optional
envoy.config.route.v3.HeaderMatcher: contains_match exact_match invert_match name prefix_match present_match \
    range_match safe_regex_match string_match suffix_match treat_missing_header_as_empty
envoy.config.route.v3.HedgePolicy: additional_request_chance hedge_on_per_try_timeout initial_requests
envoy.config.route.v3.InternalRedirectPolicy: allow_cross_scheme_redirect max_internal_redirects \
    predicates redirect_response_codes response_headers_to_copy
envoy.config.route.v3.QueryParameterMatcher: name present_match string_match
envoy.config.route.v3.RateLimit: actions stage
envoy.config.route.v3.RateLimit.Action: destination_cluster generic_key header_value_match \
    masked_remote_address metadata query_parameter_value_match query_parameters remote_address request_headers \
    source_cluster
envoy.config.route.v3.RateLimit.Action.DestinationCluster:
envoy.config.route.v3.RateLimit.Action.GenericKey: descriptor_key descriptor_value
envoy.config.route.v3.RateLimit.Action.HeaderValueMatch: descriptor_key descriptor_value expect_match headers
envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress: v4_prefix_mask_len v6_prefix_mask_len
envoy.config.route.v3.RateLimit.Action.MetaData: default_value descriptor_key metadata_key skip_if_absent source
envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch: descriptor_key descriptor_value expect_match \
    query_parameters
envoy.config.route.v3.RateLimit.Action.QueryParameters: descriptor_key query_parameter_name skip_if_absent
envoy.config.route.v3.RateLimit.Action.RemoteAddress:
envoy.config.route.v3.RateLimit.Action.RequestHeaders: descriptor_key header_name skip_if_absent
envoy.config.route.v3.RateLimit.Action.SourceCluster:
envoy.config.route.v3.RedirectAction: host_redirect https_redirect path_redirect port_redirect prefix_rewrite \
    regex_rewrite response_code scheme_redirect strip_query
envoy.config.route.v3.RetryPolicy: host_selection_retry_max_attempts num_retries per_try_idle_timeout \
    per_try_timeout rate_limited_retry_back_off retriable_headers retriable_request_headers \
    retriable_status_codes retry_back_off retry_host_predicate retry_on
envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff: max_interval reset_headers
envoy.config.route.v3.RetryPolicy.ResetHeader: format name
envoy.config.route.v3.RetryPolicy.RetryBackOff: base_interval max_interval
envoy.config.route.v3.RetryPolicy.RetryHostPredicate: name typed_config
envoy.config.route.v3.Route: decorator direct_response match metadata name redirect request_headers_to_add \
    request_headers_to_remove response_headers_to_add response_headers_to_remove route tracing \
    typed_per_filter_config
envoy.config.route.v3.RouteAction: append_x_forwarded_host auto_host_rewrite cluster cluster_header \
    cluster_not_found_response_code cors grpc_timeout_offset hash_policy hedge_policy host_rewrite_header \
    host_rewrite_literal host_rewrite_path_regex idle_timeout include_vh_rate_limits internal_redirect_policy \
    max_grpc_timeout \
    max_stream_duration metadata_match prefix_rewrite priority rate_limits regex_rewrite request_mirror_policies \
    retry_policy timeout upgrade_configs \
    weighted_clusters
envoy.config.route.v3.RouteAction.HashPolicy: connection_properties cookie header query_parameter terminal
envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties: source_ip
envoy.config.route.v3.RouteAction.HashPolicy.Cookie: attributes name path ttl
envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute: name value
envoy.config.route.v3.RouteAction.HashPolicy.Header: header_name regex_rewrite
envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter: name
envoy.config.route.v3.RouteAction.MaxStreamDuration: grpc_timeout_header_max grpc_timeout_header_offset \
    max_stream_duration
envoy.config.route.v3.RouteAction.RequestMirrorPolicy: cluster cluster_header disable_shadow_host_suffix_append \
    host_rewrite_literal runtime_fraction trace_sampled
envoy.config.route.v3.RouteAction.UpgradeConfig: enabled upgrade_type
envoy.config.route.v3.RouteConfiguration: ignore_path_parameters_in_path_matching ignore_port_in_host_matching \
    internal_only_headers max_direct_response_body_size_bytes metadata most_specific_header_mutations_wins name \
    request_headers_to_add request_headers_to_remove request_mirror_policies response_headers_to_add \
    response_headers_to_remove typed_per_filter_config validate_clusters vhds vhost_header virtual_hosts
envoy.config.route.v3.RouteMatch: case_sensitive connect_matcher cookies dynamic_metadata grpc headers path \
    path_match_policy path_separated_prefix prefix query_parameters runtime_fraction safe_regex tls_context
envoy.config.route.v3.RouteMatch.ConnectMatcher:
envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions:
envoy.config.route.v3.RouteMatch.TlsContextMatchOptions: presented validated
envoy.config.route.v3.ScopedRouteConfiguration: key name route_configuration route_configuration_name
envoy.config.route.v3.ScopedRouteConfiguration.Key: fragments
envoy.config.route.v3.ScopedRouteConfiguration.Key.Fragment: string_key
envoy.config.route.v3.Tracing: client_sampling overall_sampling random_sampling
envoy.config.route.v3.Vhds: config_source
envoy.config.route.v3.VirtualHost: cors domains hedge_policy include_attempt_count_in_response include_request_attempt_count \
    metadata name rate_limits request_headers_to_add request_headers_to_remove request_mirror_policies require_tls \
    response_headers_to_add response_headers_to_remove retry_policy routes typed_per_filter_config
envoy.config.route.v3.WeightedCluster: clusters header_name
envoy.config.route.v3.WeightedCluster.ClusterWeight: host_rewrite_literal metadata_match name request_headers_to_add \
    request_headers_to_remove response_headers_to_add response_headers_to_remove typed_per_filter_config weight
envoy.config.trace.v3.OpenTelemetryConfig: grpc_service http_service service_name
envoy.config.trace.v3.Tracing.Http: name typed_config
envoy.config.trace.v3.ZipkinConfig: collector_cluster collector_endpoint collector_endpoint_version \
    collector_hostname collector_service shared_span_context trace_context_option trace_id_128bit
envoy.extensions.access_loggers.file.v3.FileAccessLog: format json_format log_format path typed_json_format
envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter: expression
envoy.extensions.access_loggers.grpc.v3.CommonGrpcAccessLogConfig: buffer_flush_interval buffer_size_bytes \
    grpc_service log_name transport_api_version
envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig: additional_request_headers_to_log \
    additional_response_headers_to_log additional_response_trailers_to_log common_config
envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig: common_config
envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig: attributes body \
    buffer_flush_interval buffer_size_bytes common_config disable_builtin_labels formatters grpc_service \
    http_service log_name resource_attributes stat_prefix
envoy.extensions.access_loggers.stream.v3.StderrAccessLog: log_format
envoy.extensions.access_loggers.stream.v3.StdoutAccessLog: log_format
envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor: entries token_bucket
envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry: key value
envoy.extensions.clusters.aggregate.v3.ClusterConfig: clusters
envoy.extensions.filters.common.fault.v3.FaultDelay: fixed_delay header_delay percentage
envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay:
envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue: format_string object_key
envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig: allow_insecure_cluster_options dns_cache_config
envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheCircuitBreakers: max_pending_requests
envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig: dns_cache_circuit_breaker \
    dns_failure_refresh_rate dns_lookup_family dns_min_refresh_rate dns_query_timeout dns_refresh_rate host_ttl \
    max_hosts name
envoy.extensions.compression.brotli.compressor.v3.Brotli: quality window_bits
envoy.extensions.compression.brotli.decompressor.v3.Brotli:
envoy.extensions.compression.gzip.compressor.v3.Gzip: compression_level
envoy.extensions.compression.gzip.decompressor.v3.Gzip: max_inflate_ratio
envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency: concurrency_limit_exceeded_status \
    enabled gradient_controller_config
envoy.extensions.filters.http.adaptive_concurrency.v3.GradientControllerConfig: concurrency_limit_params \
    min_rtt_calc_params sample_aggregate_percentile
envoy.extensions.filters.http.adaptive_concurrency.v3.GradientControllerConfig.ConcurrencyLimitCalculationParams: \
    concurrency_update_interval max_concurrency_limit
envoy.extensions.filters.http.adaptive_concurrency.v3.GradientControllerConfig.MinimumRTTCalculationParams: buffer \
    fixed_value interval jitter min_concurrency request_count
envoy.extensions.filters.http.admission_control.v3.AdmissionControl: aggression enabled max_rejection_probability \
    rps_threshold sampling_window sr_threshold success_criteria
envoy.extensions.filters.http.admission_control.v3.AdmissionControl.SuccessCriteria: grpc_criteria http_criteria
envoy.extensions.filters.http.admission_control.v3.AdmissionControl.SuccessCriteria.GrpcCriteria: \
    grpc_success_status
envoy.extensions.filters.http.admission_control.v3.AdmissionControl.SuccessCriteria.HttpCriteria: \
    http_success_status
envoy.extensions.filters.http.buffer.v3.Buffer: max_request_bytes
envoy.extensions.filters.http.buffer.v3.BufferPerRoute: buffer disabled
envoy.extensions.filters.http.compressor.v3.Compressor: choose_first compressor_library response_direction_config
envoy.extensions.filters.http.compressor.v3.Compressor.CommonDirectionConfig: content_type content_type_matcher \
    enabled min_content_length
envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig: common_config \
    disable_on_etag_header remove_accept_encoding_header uncompressible_response_codes weaken_etag_on_compress
envoy.extensions.filters.http.compressor.v3.CompressorOverrides: response_direction_config
envoy.extensions.filters.http.compressor.v3.CompressorPerRoute: disabled overrides
envoy.extensions.filters.http.compressor.v3.ResponseDirectionOverrides: remove_accept_encoding_header
envoy.extensions.filters.http.cors.v3.Cors:
envoy.extensions.filters.http.cors.v3.CorsPolicy: allow_credentials allow_headers allow_methods \
    allow_origin_string_match allow_private_network_access expose_headers filter_enabled \
    forward_not_matching_preflights max_age
envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest: allowed_headers headers_to_add
envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse: allowed_client_headers \
    allowed_client_headers_on_success allowed_upstream_headers allowed_upstream_headers_to_append \
    dynamic_metadata_from_headers
envoy.extensions.filters.http.ext_authz.v3.BufferSettings: allow_partial_message max_request_bytes pack_as_bytes
envoy.extensions.filters.http.ext_authz.v3.CheckSettings: context_extensions disable_request_body_buffering \
    with_request_body
envoy.extensions.filters.http.ext_authz.v3.ExtAuthz: allowed_headers charge_cluster_response_stats \
    clear_route_cache deny_at_disable disallowed_headers enable_dynamic_metadata_ingestion encode_raw_headers \
    failure_mode_allow failure_mode_allow_header_add filter_enabled filter_enabled_metadata grpc_service \
    http_service include_peer_certificate include_tls_session max_denied_response_body_bytes \
    metadata_context_namespaces stat_prefix status_on_error with_request_body
envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute: check_settings disabled
envoy.extensions.filters.http.ext_authz.v3.HttpService: authorization_request authorization_response \
    path_override path_prefix server_uri
envoy.extensions.filters.http.csrf.v3.CsrfPolicy: additional_origins filter_enabled shadow_enabled
envoy.extensions.filters.http.decompressor.v3.Decompressor: decompressor_library request_direction_config \
    response_direction_config
envoy.extensions.filters.http.decompressor.v3.Decompressor.CommonDirectionConfig: enabled \
    ignore_no_transform_header
envoy.extensions.filters.http.decompressor.v3.Decompressor.RequestDirectionConfig: advertise_accept_encoding \
    common_config
envoy.extensions.filters.http.decompressor.v3.Decompressor.ResponseDirectionConfig: common_config
envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig: dns_cache_config
envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig: host_rewrite_header host_rewrite_literal
envoy.extensions.filters.http.ext_proc.v3.ExtProcOverrides: failure_mode_allow grpc_initial_metadata \
    grpc_service metadata_options processing_mode
envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute: disabled overrides
envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor: allow_mode_override allowed_override_modes \
    disable_clear_route_cache disable_immediate_response failure_mode_allow forward_rules grpc_service \
    max_message_timeout message_timeout metadata_options mutation_rules processing_mode route_cache_action \
    stat_prefix status_on_error
envoy.extensions.filters.http.ext_proc.v3.HeaderForwardingRules: allowed_headers disallowed_headers
envoy.extensions.filters.http.ext_proc.v3.MetadataOptions: forwarding_namespaces receiving_namespaces
envoy.extensions.filters.http.ext_proc.v3.MetadataOptions.MetadataNamespaces: untyped
envoy.extensions.filters.http.ext_proc.v3.ProcessingMode: request_body_mode request_header_mode \
    request_trailer_mode response_body_mode response_header_mode response_trailer_mode
envoy.extensions.filters.http.fault.v3.FaultAbort: grpc_status header_abort http_status percentage
envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort:
envoy.extensions.filters.http.fault.v3.HTTPFault: abort delay downstream_nodes headers upstream_cluster
envoy.extensions.filters.http.grpc_stats.v3.FilterConfig:
envoy.extensions.filters.http.grpc_web.v3.GrpcWeb:
envoy.extensions.filters.http.header_to_metadata.v3.Config: request_rules
envoy.extensions.filters.http.header_to_metadata.v3.Config.KeyValuePair: encode key metadata_namespace \
    regex_value_rewrite type value
envoy.extensions.filters.http.header_to_metadata.v3.Config.Rule: cookie header on_header_missing \
    on_header_present remove
envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication: bypass_cors_preflight providers requirement_map \
    rules strip_failure_response
envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader: claim_name header_name
envoy.extensions.filters.http.jwt_authn.v3.JwtHeader: name value_prefix
envoy.extensions.filters.http.jwt_authn.v3.JwtProvider: audiences claim_to_headers clear_route_cache \
    clock_skew_seconds failed_status_in_metadata forward forward_payload_header from_cookies from_headers from_params \
    header_in_metadata issuer local_jwks max_lifetime normalize_payload_in_metadata pad_forward_payload_header \
    payload_in_metadata remote_jwks require_expiration subjects
envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload: space_delimited_claims
envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement: allow_missing allow_missing_or_failed \
    provider_and_audiences provider_name requires_all requires_any
envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList: requirements
envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList: requirements
envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig: disabled requirement_name
envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences: audiences provider_name
envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks: cache_duration http_uri
envoy.extensions.filters.http.jwt_authn.v3.RequirementRule: match requirement_name requires
envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit: always_consume_default_token_bucket descriptors \
    enable_x_ratelimit_headers filter_enabled filter_enforced rate_limited_as_resource_exhausted rate_limits \
    request_headers_to_add_when_not_enforced response_headers_to_add stage stat_prefix status token_bucket \
    vh_rate_limits
envoy.extensions.filters.http.peak_ewma.v3alpha.PeakEwmaConfig:
envoy.extensions.filters.http.ratelimit.v3.RateLimit: disable_x_envoy_ratelimited_header domain \
    enable_x_ratelimit_headers failure_mode_deny filter_enabled filter_enforced rate_limit_service \
    rate_limited_as_resource_exhausted rate_limited_status rate_limits request_type response_headers_to_add stage \
    stat_prefix status_on_error timeout
envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute: domain rate_limits vh_rate_limits
envoy.extensions.filters.http.rbac.v3.RBAC: rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix
envoy.extensions.filters.http.rbac.v3.RBACPerRoute: rbac
envoy.extensions.filters.http.on_demand.v3.OnDemand:
envoy.extensions.filters.http.router.v3.Router: respect_expected_rq_timeout suppress_envoy_headers
envoy.extensions.filters.listener.http_inspector.v3.HttpInspector:
envoy.extensions.filters.listener.original_dst.v3.OriginalDst:
envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol: allow_requests_without_proxy_protocol
envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector:
envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit: delay max_connections
envoy.extensions.filters.network.direct_response.v3.Config: response
envoy.extensions.filters.network.echo.v3.Echo:
envoy.extensions.filters.network.ext_authz.v3.ExtAuthz: failure_mode_allow filter_enabled_metadata grpc_service \
    include_peer_certificate include_tls_session metadata_context_namespaces stat_prefix
envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager: access_log \
    always_set_request_id_in_response append_x_forwarded_port codec_type common_http_protocol_options \
    delayed_close_timeout forward_client_cert_details generate_request_id http2_protocol_options http_filters \
    http_protocol_options internal_address_config local_reply_config max_request_headers_kb merge_slashes \
    normalize_path path_with_escaped_slashes_action preserve_external_request_id proxy_100_continue rds \
    request_headers_timeout request_id_extension route_config scheme_header_transformation \
    scoped_routes server_header_transformation server_name set_current_client_cert_details skip_xff_append stat_prefix \
    stream_idle_timeout strip_any_host_port strip_matching_host_port strip_trailing_host_dot tracing \
    upgrade_configs use_remote_address via xff_num_trusted_hops
envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig: \
    cidr_ranges
envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails: \
    cert chain dns subject uri
envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing: client_sampling \
    custom_tags max_path_tag_length no_context_propagation overall_sampling provider random_sampling \
    spawn_upstream_span
envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig: enabled \
    upgrade_type
envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter: disabled is_optional name typed_config
envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig: body_format mappers
envoy.extensions.filters.network.http_connection_manager.v3.Rds: config_source route_config_name
envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension: typed_config
envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper: body body_format_override filter \
    headers_to_add status_code
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRds: scoped_rds_config_source
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRouteConfigurationsList: \
    scoped_route_configurations
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes: name rds_config_source scope_key_builder \
    scoped_rds scoped_route_configurations_list
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder: fragments
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder: \
    header_value_extractor
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor: \
    element element_separator index name
envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor.KvElement: \
    key separator
envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit: runtime_enabled stat_prefix token_bucket
envoy.extensions.filters.network.rbac.v3.RBAC: enforcement_type rules shadow_rules shadow_rules_stat_prefix \
    stat_prefix
envoy.extensions.filters.network.set_filter_state.v3.Config: on_new_connection
envoy.extensions.filters.network.sni_cluster.v3.SniCluster:
envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig: dns_cache_config port_value
envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy: access_log cluster hash_policy idle_timeout \
    max_connect_attempts max_downstream_connection_duration stat_prefix weighted_clusters
envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster: clusters
envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight: name weight
envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery:
envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig: allowed_route_names
envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig:
envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig:
envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig: use_hostname_for_hashing
envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig: locality_weighted_lb_config \
    zone_aware_lb_config
envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig:
envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig: fail_traffic_on_panic \
    force_local_zone force_locality_direct_routing locality_basis min_cluster_size routing_enabled
envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig.ForceLocalZone: min_size
envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig: aggression min_weight_percent slow_start_window
envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest: choice_count locality_lb_config \
    slow_start_config
envoy.extensions.load_balancing_policies.maglev.v3.Maglev: consistent_hashing_lb_config locality_weighted_lb_config \
    table_size
envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma: decay_time default_rtt penalty_value
envoy.extensions.load_balancing_policies.random.v3.Random: locality_lb_config
envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash: consistent_hashing_lb_config hash_function \
    locality_weighted_lb_config maximum_ring_size minimum_ring_size use_hostname_for_hashing
envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin: locality_lb_config slow_start_config
envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig: path_template
envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig: pack_trace_reason use_request_id_for_trace_sampling
envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate:
envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer:
envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext: allow_expired_certificate crl \
    match_subject_alt_names match_typed_subject_alt_names require_signed_certificate_timestamp system_root_certs \
    trust_chain_verification trusted_ca verify_certificate_hash verify_certificate_spki
envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts:
envoy.extensions.transport_sockets.tls.v3.CommonTlsContext: alpn_protocols combined_validation_context \
    tls_certificate_sds_secret_configs tls_certificates tls_params validation_context \
    validation_context_sds_secret_config
envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext: \
    default_validation_context validation_context_sds_secret_config
envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext: common_tls_context require_client_certificate \
    require_sni
envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig: name sds_config
envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher: matcher san_type
envoy.extensions.transport_sockets.tls.v3.TlsCertificate: certificate_chain private_key
envoy.extensions.transport_sockets.tls.v3.TlsParameters: cipher_suites ecdh_curves \
    tls_maximum_protocol_version tls_minimum_protocol_version
envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext: auto_host_sni auto_sni_san_validation \
    common_tls_context sni
envoy.extensions.upstreams.http.v3.HttpProtocolOptions: auto_config common_http_protocol_options \
    explicit_http_config upstream_http_protocol_options use_downstream_protocol_config
envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig: http2_protocol_options \
    http_protocol_options
envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig: http2_protocol_options \
    http_protocol_options
envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig: http2_protocol_options \
    http_protocol_options
envoy.tcp.metadataexchange.config.MetadataExchange: protocol
envoy.type.matcher.v3.DoubleMatcher: exact range
envoy.type.matcher.v3.FilterStateMatcher: key string_match
envoy.type.matcher.v3.ListMatcher: one_of
envoy.type.matcher.v3.ListStringMatcher: patterns
envoy.type.matcher.v3.MetadataMatcher: filter invert path value
envoy.type.matcher.v3.MetadataMatcher.PathSegment: key
envoy.type.matcher.v3.OrMatcher: value_matchers
envoy.type.matcher.v3.PathMatcher: path
envoy.type.matcher.v3.RegexMatchAndSubstitute: pattern substitution
envoy.type.matcher.v3.RegexMatcher: regex
envoy.type.matcher.v3.StringMatcher: contains exact ignore_case prefix safe_regex suffix
envoy.type.matcher.v3.ValueMatcher: bool_match double_match list_match null_match or_match present_match \
    string_match
envoy.type.matcher.v3.ValueMatcher.NullMatch:
envoy.type.metadata.v3.MetadataKey: key path
envoy.type.metadata.v3.MetadataKey.PathSegment: key
envoy.type.metadata.v3.MetadataKind: request
envoy.type.metadata.v3.MetadataKind.Request:
envoy.type.tracing.v3.CustomTag: environment literal metadata request_header tag value
envoy.type.tracing.v3.CustomTag.Environment: default_value name
envoy.type.tracing.v3.CustomTag.Header: default_value name
envoy.type.tracing.v3.CustomTag.Literal: value
envoy.type.tracing.v3.CustomTag.Metadata: default_value kind metadata_key
envoy.type.v3.DoubleRange: end start
envoy.type.v3.FractionalPercent: denominator numerator
envoy.type.v3.HashPolicy: source_ip
envoy.type.v3.HashPolicy.SourceIp:
envoy.type.v3.HttpStatus: code
envoy.type.v3.Int32Range: end start
envoy.type.v3.Int64Range: end start
envoy.type.v3.Percent: value
envoy.type.v3.TokenBucket: fill_interval max_tokens tokens_per_fill
istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig: alpn_override
istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride: alpn_override upstream_protocol
opentelemetry.proto.common.v1.AnyValue: array_value bool_value bytes_value double_value int_value kvlist_value \
    string_value
opentelemetry.proto.common.v1.ArrayValue: values
opentelemetry.proto.common.v1.KeyValue: key value
opentelemetry.proto.common.v1.KeyValueList: values
udpa.type.v1.TypedStruct: type_url value
xds.type.v3.TypedStruct: type_url value
";

/// Message, field, and why setting it changes nothing.
pub(super) const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    (
        "envoy.config.cluster.v3.Cluster",
        "cleanup_interval",
        "no list of original destinations is kept: their connections end by being idle",
    ),
    ("envoy.config.cluster.v3.Cluster", "typed_dns_resolver_config", "names are resolved as on the host"),
    (
        "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        "track_remaining",
        "what remains is read from the limits and the gauges",
    ),
    (
        "envoy.config.core.v3.ApiConfigSource",
        "set_node_on_first_message_only",
        "the node is sent once a stream in any case",
    ),
    ("envoy.config.core.v3.ApiConfigSource", "transport_api_version", "there is only V3"),
    (
        "envoy.config.core.v3.ConfigSource",
        "initial_fetch_timeout",
        "a listener waits 15 s at most for what it refers to, and nothing else does",
    ),
    ("envoy.config.core.v3.ConfigSource", "resource_api_version", "there is only V3"),
    (
        "envoy.config.core.v3.RuntimeFractionalPercent",
        "runtime_key",
        "there is no runtime: the default holds, as in an Envoy without one",
    ),
    (
        "envoy.config.core.v3.RuntimeFeatureFlag",
        "runtime_key",
        "there is no runtime: the default holds, as in an Envoy without one",
    ),
    (
        "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig",
        "typed_dns_resolver_config",
        "names are resolved as on the host",
    ),
    (
        "envoy.extensions.compression.brotli.compressor.v3.Brotli",
        "chunk_size",
        "output is as large as it becomes",
    ),
    (
        "envoy.extensions.compression.brotli.decompressor.v3.Brotli",
        "chunk_size",
        "output is as large as it becomes, up to a hundred times its input",
    ),
    (
        "envoy.extensions.compression.brotli.decompressor.v3.Brotli",
        "disable_ring_buffer_reallocation",
        "the decoder takes the memory that it takes",
    ),
    (
        "envoy.extensions.compression.gzip.decompressor.v3.Gzip",
        "chunk_size",
        "output is as large as it becomes, up to maxInflateRatio times its input",
    ),
    (
        "envoy.extensions.compression.gzip.decompressor.v3.Gzip",
        "window_bits",
        "the decoder has the largest window",
    ),
    (
        "envoy.extensions.compression.gzip.compressor.v3.Gzip",
        "chunk_size",
        "output is as large as it becomes",
    ),
    (
        "envoy.extensions.compression.gzip.compressor.v3.Gzip",
        "compression_strategy",
        "what is encoded decodes to the same",
    ),
    (
        "envoy.extensions.compression.gzip.compressor.v3.Gzip",
        "memory_level",
        "what is encoded decodes to the same; the encoder takes the memory that it takes",
    ),
    (
        "envoy.extensions.compression.gzip.compressor.v3.Gzip",
        "window_bits",
        "every decoder of gzip has the largest window",
    ),
    ("envoy.config.core.v3.RuntimeUInt32", "runtime_key", "there is no runtime: the default holds"),
    ("envoy.config.core.v3.RuntimeDouble", "runtime_key", "there is no runtime: the default holds"),
    ("envoy.config.core.v3.RuntimePercent", "runtime_key", "there is no runtime: the default holds"),
    ("envoy.config.accesslog.v3.RuntimeFilter", "runtime_key", "there is no runtime: percentSampled holds"),
    ("envoy.config.listener.v3.Listener", "enable_reuse_port", "every worker listens for itself in any case"),
    (
        "envoy.config.listener.v3.Listener",
        "max_connections_to_accept_per_socket_event",
        "accepting never holds a worker's other connections up",
    ),
    ("envoy.config.route.v3.WeightedCluster", "runtime_key_prefix", "there is no runtime: the weights hold"),
    ("envoy.config.route.v3.WeightedCluster", "total_weight", "the weights' sum is taken, as Envoy does"),
    ("envoy.config.ratelimit.v3.RateLimitServiceConfig", "transport_api_version", "there is only V3"),
    ("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "transport_api_version", "there is only V3"),
    ("envoy.extensions.filters.network.ext_authz.v3.ExtAuthz", "transport_api_version", "there is only V3"),
    (
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        "emit_filter_state",
        "messages are counted for Istio's metrics in any case",
    ),
    (
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        "stats_for_all_methods",
        "messages are counted for every method",
    ),
    (
        "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma",
        "aggregation_interval",
        "what is measured counts at once, for all workers",
    ),
    (
        "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma",
        "max_samples_per_host",
        "what is measured is kept as its average",
    ),
    (
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        "initial_read_buffer_size",
        "the buffer grows as a hello needs",
    ),
];
