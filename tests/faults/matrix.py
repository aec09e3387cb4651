"""The faults that the gateway and its engines are held against, and which tests do so: a file, or one test in it."""

CONNECTIONS, ANSWERS = "tests/faults/test_connections.py", "tests/faults/test_answers.py"
CLIENTS, OVERLOAD = "tests/faults/test_clients.py", "tests/faults/test_overload.py"
MACHINE, RELAY = "tests/faults/test_machine_troubles.py", "tests/relay/test_faults.py"
WAITING, ENDING = "tests/relay/test_waiting.py", "tests/relay/test_ending.py"
REAL, SUPERVISOR = "tests/vllm/test_deaths.py", "tests/engine/test_supervisor.py"

MATRIX: dict[str, tuple[str, ...]] = {
    # an engine is killed within a stream; its core dies and its API server lives on
    "F1": (
        f"{RELAY}::test_stream_broken_at_any_byte_ends_with_one_error_event",
        f"{RELAY}::test_stream_broken_between_two_events_ends_with_one_error_event",
        f"{RELAY}::test_an_engine_that_crashes_fails_only_its_own_streams",
        f"{CONNECTIONS}::test_a_reset_within_streams_hurts_only_those_there",
        f"{REAL}::test_core_stopped_then_killed",
    ),
    # it is killed before the first byte
    "F2": (
        f"{RELAY}::test_failure_before_output_is_retried_on_another_replica",
        f"{RELAY}::test_a_request_is_tried_at_most_twice",
        f"{CONNECTIONS}::test_a_pooled_connection_that_is_reset_is_not_the_clients_concern",
        f"{CONNECTIONS}::test_with_nobody_left_the_refusal_is_immediate_and_says_when_to_return",
    ),
    # memory runs out
    "F3": (SUPERVISOR, f"{CONNECTIONS}::test_one_that_refuses_is_left_alone_until_it_answers_again"),
    # it hangs and says that it is healthy
    "F4": (
        f"{CONNECTIONS}::test_a_hung_engine_that_says_it_is_healthy",
        f"{RELAY}::test_a_stream_that_stalls_ends_with_a_timeout_event",
        "tests/vllm/test_one_engine.py::test_it_starts_hangs_recovers_and_dies",
        "tests/engine/test_watchdog.py::test_a_hung_engine_core_is_detected",
    ),
    # connections that are half open or swallow everything
    "F5": (
        f"{CONNECTIONS}::test_a_connection_that_swallows_the_request",
        f"{CONNECTIONS}::test_a_stream_whose_engine_vanished_without_a_word",
        f"{CONNECTIONS}::test_an_answer_that_drips_is_whole",
        "tests/transport/test_pool.py::test_full_accept_queue_is_a_transport_error",
    ),
    # clients leave
    "F6": (
        f"{RELAY}::test_disconnect_before_the_first_byte_frees_the_engine",
        f"{RELAY}::test_disconnects_at_random_moments_leak_nothing",
        f"{WAITING}::test_disconnect_while_queued_leaves_the_queue",
        f"{CLIENTS}::test_a_client_that_leaves_takes_what_it_sent_ahead_along",
        f"{CLIENTS}::test_requests_that_come_together_are_answered_in_turn",
        "tests/vllm/test_contract.py::test_a_client_that_disconnects_frees_the_engine",
    ),
    # overload, by many or by one
    "F7": (OVERLOAD, "tests/admission/test_overload.py", f"{WAITING}::test_request_beyond_max_queued_gets_503"),
    # deadlines
    "F8": (
        f"{RELAY}::test_an_engine_without_a_response_in_time_is_a_504",
        f"{WAITING}::test_queue_timeout_is_a_503_and_reaches_no_engine",
    ),
    # the end of the gateway, and of one engine
    "F9": (
        "tests/end_to_end/test_lifecycle.py",
        "tests/gateway/test_shutdown.py",
        ENDING,
        f"{RELAY}::test_a_draining_engine_loses_no_request",
    ),
    # a request that crashes engines
    "F10": (f"{ENDING}::test_a_request_that_was_in_flight_at_two_crashes_is_refused", "tests/relay/test_quarantine.py"),
    # weights that are harmed or missing
    "F11": ("tests/weights/test_manifest.py", "tests/weights/test_tensors.py", SUPERVISOR),
    # a full disk, no more file descriptors
    "F12": (
        f"{MACHINE}::test_a_log_that_cannot_be_written_fails_nothing",
        f"{MACHINE}::test_a_log_that_nobody_reads_delays_no_request_and_its_losses_are_counted",
        f"{MACHINE}::test_notes_that_cannot_be_written_keep_no_request",
        f"{MACHINE}::test_a_state_that_cannot_be_written_leaves_the_old_one_whole",
        f"{MACHINE}::test_a_gateway_without_file_descriptors_recovers",
    ),
    # a fleet file with mistakes
    "F13": (f"{MACHINE}::test_a_storm_of_good_and_bad_fleet_files_fails_no_request", "tests/fleet/test_reload.py"),
    # clocks that jump
    "F14": (
        f"{MACHINE}::test_a_wall_clock_that_jumps_changes_no_duration_and_fills_no_budget",
        f"{MACHINE}::test_durations_come_from_a_clock_that_does_not_jump",
    ),
    # engines that start slowly
    "F15": (
        f"{WAITING}::test_many_first_requests_activate_one_replica",
        f"{WAITING}::test_activation_timeout_is_a_503_model_loading",
        "tests/upstreams/test_remote.py::test_a_slow_start",
    ),
    # slow readers
    "F16": (
        f"{CLIENTS}::test_fifty_slow_readers_cost_little_memory_and_hold_nobody_up",
        f"{CLIENTS}::test_a_client_that_takes_nothing_frees_its_engine",
    ),
    # answers that are none
    "F17": (
        f"{ANSWERS}::test_what_is_no_answer_is_an_error_in_our_words",
        f"{ANSWERS}::test_where_a_stream_is_cut_makes_no_difference",
        f"{ANSWERS}::test_a_stream_that_turns_into_something_else",
        f"{RELAY}::test_the_text_of_an_engine_error_never_leaks",
    ),
    # the wrong model at an address
    "F18": (
        f"{CONNECTIONS}::test_engines_that_changed_places_get_nothing",
        "tests/upstreams/test_remote.py::test_swapped_addresses_are_detected",
    ),
    # names that move, IPv6, proxies of the environment
    "F19": (
        "tests/upstreams/test_discovery.py",
        "tests/upstreams/test_remote.py::test_over_ipv6",
        f"{CONNECTIONS}::test_proxies_of_the_environment_are_for_others",
    ),
    # what is asked beside engines is down
    "F20": (f"{CONNECTIONS}::test_a_name_server_that_answers_no_more_is_not_the_clients_concern",),
    # the event loop is blocked
    "F21": (
        f"{CLIENTS}::test_a_large_request_does_not_stop_the_others",
        f"{MACHINE}::test_a_gateway_that_stands_still_says_so",
    ),
    # whoever started an engine dies
    "F22": ("tests/engine/test_process.py", "tests/end_to_end/test_service.py::test_nothing_outlives_a_killed_service"),
    # answers that come twice or too late
    "F23": (
        f"{ANSWERS}::test_what_comes_after_the_end_is_billed_to_nobody",
        f"{ANSWERS}::test_an_end_that_comes_twice_is_one",
        f"{ANSWERS}::test_tokens_after_a_client_has_left_are_nobodys",
        "tests/relay/test_idempotency_gateway.py",
    ),
}
