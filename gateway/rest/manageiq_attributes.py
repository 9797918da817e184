"""Attributes of ManageIQ's class Vm that only ManageIQ knows: the gateway accepts their names, and they are null.

Sources: the columns of the table `vms` after all migrations in ManageIQ/manageiq-schema (db/migrate, 2026-06), and the
virtual attributes and associations in ManageIQ/manageiq (app/models/vm_or_template.rb, vm.rb, their mixins, and
manageiq/providers/cloud_manager/vm.rb, 2026-08). Attributes that the gateway can derive are in `machines`.
"""

from collections.abc import Mapping

from gateway.rest.attributes import Attribute, Attributes, Kind, unknown, unknown_association

_COLUMNS: Mapping[Kind, str] = {
    "text": "ancestry autostart config_xml connection_state cpu_affinity cpu_shares_level ems_ref_type format hostname"
    " location memory_shares_level previous_state retirement_requester retirement_state standby_action tools_status"
    " version",
    "boolean": "busy cpu_hot_add_enabled cpu_hot_remove_enabled cpu_reserve_expand deprecated fault_tolerance"
    " linked_clone memory_hot_add_enabled memory_reserve_expand publicly_available registered restart_needed retired"
    " smart",
    "integer": "cpu_limit cpu_reserve cpu_shares memory_hot_add_increment memory_hot_add_limit memory_limit"
    " memory_reserve memory_shares retirement_warn vnc_port",
    "timestamp": "boot_time ems_created_on last_perf_capture_on last_scan_attempt_on last_scan_on retirement_last_warn"
    " retires_on state_changed_on",
    "id": "availability_zone_id cloud_network_id cloud_subnet_id cloud_tenant_id ems_cluster_id evm_owner_id flavor_id"
    " host_id miq_group_id orchestration_stack_id placement_group_id resource_group_id storage_id storage_profile_id"
    " tenant_id",
}
_VIRTUAL: Mapping[Kind, str] = {
    "text": "authentication_status disks_aligned ems_cluster_name evm_owner_email evm_owner_name evm_owner_userid"
    " load_balancer_health_check_state memory_exceeds_current_host_headroom os_image_name owning_ldap_group platform"
    " processor_pin_policy processor_share_type product_name region_description software_licenses storage_name"
    " v_annotation v_datastore_path v_host_vmm_product v_owning_blue_folder v_owning_blue_folder_path v_owning_cluster"
    " v_owning_datacenter v_owning_folder v_owning_folder_path v_owning_resource_pool"
    " v_parent_blue_folder_display_path vmsafe_agent_address",
    "boolean": "has_rdm_disk is_evm_appliance last_compliance_status owned_by_current_ldap_group owned_by_current_user"
    " paravirtualization supports_reconfigure_cdroms supports_reconfigure_disks supports_reconfigure_disksize"
    " supports_reconfigure_network_adapters thin_provisioned vmsafe_enable vmsafe_fail_open vmsafe_immutable_vm",
    "integer": "aggressive_mem_recommended_change aggressive_recommended_mem aggressive_recommended_vcpus"
    " aggressive_vcpus_recommended_change allocated_disk_storage conservative_mem_recommended_change"
    " conservative_recommended_mem conservative_recommended_vcpus conservative_vcpus_recommended_change"
    " cpu_cores_per_socket cpu_total_cores debris_size disk_size mem_cpu moderate_mem_recommended_change"
    " moderate_recommended_mem moderate_recommended_vcpus moderate_vcpus_recommended_change num_cpu num_disks"
    " num_hard_disks provisioned_storage ram_size ram_size_in_bytes recommended_mem recommended_vcpus snapshot_size"
    " uncommitted_storage used_disk_storage used_storage used_storage_by_state vm_misc_size vm_ram_size"
    " vmsafe_agent_port vmsafe_timeout_ms",
    "timestamp": "first_drift_state_timestamp last_compliance_timestamp last_drift_state_timestamp",
}
# Numbers with a fraction. They have the kind `text`, which accepts every value.
_FRACTIONS = (
    "aggressive_mem_recommended_change_pct aggressive_vcpus_recommended_change_pct"
    " conservative_mem_recommended_change_pct conservative_vcpus_recommended_change_pct"
    " cpu_usage_rate_average_avg_over_time_period cpu_usage_rate_average_high_over_time_period"
    " cpu_usage_rate_average_low_over_time_period cpu_usagemhz_rate_average_avg_over_time_period"
    " cpu_usagemhz_rate_average_high_over_time_period cpu_usagemhz_rate_average_low_over_time_period"
    " cpu_usagemhz_rate_average_max_over_time_period derived_memory_used_avg_over_time_period"
    " derived_memory_used_high_over_time_period derived_memory_used_low_over_time_period"
    " derived_memory_used_max_over_time_period entitled_processors max_cpu_usage_rate_average_avg_over_time_period"
    " max_cpu_usage_rate_average_avg_over_time_period_without_overhead"
    " max_cpu_usage_rate_average_high_over_time_period"
    " max_cpu_usage_rate_average_high_over_time_period_without_overhead"
    " max_cpu_usage_rate_average_low_over_time_period max_cpu_usage_rate_average_low_over_time_period_without_overhead"
    " max_cpu_usage_rate_average_max_over_time_period max_mem_usage_absolute_average_avg_over_time_period"
    " max_mem_usage_absolute_average_avg_over_time_period_without_overhead"
    " max_mem_usage_absolute_average_high_over_time_period"
    " max_mem_usage_absolute_average_high_over_time_period_without_overhead"
    " max_mem_usage_absolute_average_low_over_time_period"
    " max_mem_usage_absolute_average_low_over_time_period_without_overhead"
    " max_mem_usage_absolute_average_max_over_time_period mem_usage_absolute_average_avg_over_time_period"
    " mem_usage_absolute_average_high_over_time_period mem_usage_absolute_average_low_over_time_period"
    " moderate_mem_recommended_change_pct moderate_vcpus_recommended_change_pct overallocated_mem_pct"
    " overallocated_vcpus_pct v_pct_free_disk_space v_pct_used_disk_space"
)
_TO_ONE = (
    "cloud_tenant custom_actions direct_service ems_cluster evm_owner first_drift_state floating_ip hardware"
    " last_compliance last_drift_state miq_group miq_provision miq_provision_template miq_server openscap_result"
    " operating_system orchestration_stack parent_resource parent_resource_pool placement_group resource_group service"
    " storage storage_profile supported_consoles tenant"
)
_TO_MANY = (
    "accounts advanced_settings all_relationships authentications child_resources cloud_networks cloud_subnets"
    " cloud_volumes compliances connected_shares counterparts custom_action_buttons custom_attributes custom_buttons"
    " debris_files direct_services directories disk_files disks drift_states ems_custom_attributes ems_events"
    " ems_events_dest ems_events_src event_logs external_urls files filesystem_drivers filesystems fixed_ip_addresses"
    " floating_ip_addresses floating_ips groups guest_applications host_aggregates hostnames ipaddresses kernel_drivers"
    " key_pairs labels lans lifecycle_events linux_initprocesses load_balancer_health_check_states"
    " load_balancer_health_check_states_with_reason load_balancer_health_checks load_balancer_listeners"
    " load_balancer_pool_members load_balancers mac_addresses metric_rollups metrics miq_alert_statuses"
    " miq_custom_attributes miq_events miq_provision_requests miq_provision_vms miq_provisions_from_template"
    " network_ports network_routers networks nics patches policy_events processes registry_items scan_histories"
    " security_groups service_resources snapshot_files storage_files storage_files_files storages system_services tags"
    " users vim_performance_operating_ranges vim_performance_states vm_misc_files vm_ram_files win32_services"
)


def _of_kinds(table: Mapping[Kind, str], *, virtual: bool) -> dict[str, Attribute]:
    return {name: unknown(kind, virtual=virtual) for kind, names in table.items() for name in names.split()}


_DISK: Mapping[Kind, str] = {
    "text": "disk_type mode partitions_aligned used_percent_of_provisioned",  # the last one has a fraction
    "integer": "size size_on_disk",
}


def _numbered() -> dict[str, Attribute]:
    """`disk_1_size` to `disk_9_size` and so on, and the nine folders of a path."""
    found = {f"parent_blue_folder_{number}_name": unknown("text", virtual=True) for number in range(1, 10)}
    for number in range(1, 10):
        own = {kind: " ".join(f"disk_{number}_{name}" for name in names.split()) for kind, names in _DISK.items()}
        found |= _of_kinds(own, virtual=True)
    return found


VM: Attributes = {
    **_of_kinds(_COLUMNS, virtual=False),
    **_of_kinds(_VIRTUAL, virtual=True),
    **_of_kinds({"text": _FRACTIONS}, virtual=True),
    **_numbered(),
    **{name: unknown_association(None) for name in _TO_ONE.split()},
    **{name: unknown_association([]) for name in _TO_MANY.split()},
}
