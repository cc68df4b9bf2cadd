#!/bin/bash
# Runs as root in the guest, in enforcing mode, when the boot has ended, and prints TAP. Everything that the
# host supplied lies beside this file. No `set -e`: a check that fails must not hide those that follow.
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

service=kms-plugin.service
config=/etc/kms-plugin/config.toml
domain=system_u:system_r:kms_plugin_t:s0

# --- The system is what the rest relies on ---------------------------------------------------------------

echo "# kernel $(uname -r), $(systemctl --version | head -1), $(uptime_seconds) s after its start"
check 'SELinux is enforcing' test "$(getenforce)" = Enforcing
check 'the audit daemon writes denials' systemctl is-active --quiet auditd

# --- Install as the packages do: the policy first, then the files ----------------------------------------

started=$(uptime_seconds)
check 'the module installs' semodule -i "$here/kms_plugin.pp" "$here/kms_plugin_ports.cil"
echo "# semodule took $(($(uptime_seconds) - started)) s"
check 'the module is listed' sh -c 'semodule -l | grep -qx kms_plugin'

install -m 0755 "$here/kms-plugin" /usr/bin/kms-plugin
install -m 0644 "$here"/systemd/*.service "$here"/systemd/*.socket "$here"/systemd/*.path /usr/lib/systemd/system/
install -m 0644 "$here/systemd/kms-plugin.sysusers" /usr/lib/sysusers.d/kms-plugin.conf
install -m 0644 "$here/systemd/kms-plugin.tmpfiles" /usr/lib/tmpfiles.d/kms-plugin.conf
systemd-sysusers kms-plugin.conf
mkdir -p /etc/kms-plugin/config.d
install -m 0644 "$here/config.toml" "$config"
install -m 0644 "$here/tls/ca.pem" /etc/ssl/certs/test-ca.pem
restorecon -RF /usr/bin/kms-plugin /etc/kms-plugin /etc/ssl/certs/test-ca.pem
systemd-tmpfiles --create kms-plugin.conf
systemctl daemon-reload

check 'the binary has its label' label /usr/bin/kms-plugin kms_plugin_exec_t
check 'the configuration has its label' label "$config" kms_plugin_etc_t
check 'tmpfiles gives the socket'"'"'s directory its label' label /run/kmsplugin kms_plugin_var_run_t
check 'the admin port has its label' port 8690 kms_plugin_admin_port_t

# --- OpenBao -----------------------------------------------------------------------------------------------

install -d -m 0700 /var/lib/bao
cp "$here/bao.hcl" "$here"/tls/server*.pem /var/lib/bao/
systemd-run --quiet --unit=bao --setenv=HOME=/var/lib/bao --property=OOMScoreAdjust=-500 \
	/usr/bin/bao server -dev -dev-root-token-id=root -dev-listen-address=127.0.0.1:8200 -config=/var/lib/bao/bao.hcl
check 'OpenBao serves' eventually 60 bao sys/health
bao sys/mounts/transit '{"type": "transit"}'
bao transit/keys/kms-key '{}'
bao sys/policies/acl/kms "$(jq_policy)"
bao sys/auth/approle '{"type": "approle"}'
bao auth/approle/role/kms '{"token_policies": "kms", "token_no_default_policy": true, "token_ttl": "24h", "token_max_ttl": "48h"}'
role_id=$(bao auth/approle/role/kms/role-id | field role_id)
(umask 077 && bao auth/approle/role/kms/secret-id '{}' | field secret_id >/etc/kms-plugin/secret-id)
chgrp kms-plugin /etc/kms-plugin/secret-id
chmod 0640 /etc/kms-plugin/secret-id
sed -i "s/ROLE_ID/$role_id/" "$config"
check 'a new file in the configuration takes over its label' label /etc/kms-plugin/secret-id kms_plugin_etc_t

# --- The agent works, and nothing is denied ----------------------------------------------------------------

systemctl start kms-plugin.socket
check 'the socket has its label' label /run/kmsplugin/kms.sock kms_plugin_var_run_t
# The first connection starts the service.
check 'the first call starts the service and is answered' eventually 30 unconfined kms-plugin probe
check 'the caller ran unconfined' sh -c "runcon -t unconfined_t -- bash -c '/usr/bin/kms-plugin --version >/dev/null; id -Z' | grep -q unconfined_t"
check 'the service is active' systemctl is-active --quiet "$service"
check 'the process runs in the domain' test "$(context_of "$(main_pid)")" = "$domain"
check 'the runtime directory has its label' label /run/kms-plugin kms_plugin_var_run_t
check 'the admin socket has its label' label /run/kms-plugin/admin.sock kms_plugin_var_run_t
check 'the state directory has its label' label /var/lib/kms-plugin kms_plugin_var_lib_t
check '/healthz is good' eventually 10 healthz
check 'many calls at once are answered' unconfined kms-plugin probe --count 200 --concurrency 16
check 'systemctl reload succeeds' systemctl reload "$service"
check 'a reload of a bad configuration fails' bad_reload
check 'systemctl restart succeeds' systemctl restart "$service"
check 'it answers after the restart' unconfined kms-plugin probe
kill -KILL "$(main_pid)"
check 'it comes back after a kill' eventually 20 unconfined kms-plugin probe
systemctl start kms-plugin-rebind.path
rm /run/kmsplugin/kms.sock
check 'a deleted socket comes back' eventually 20 test -S /run/kmsplugin/kms.sock
check 'the new socket has the label, too' label /run/kmsplugin/kms.sock kms_plugin_var_run_t
check 'it answers on the new socket' eventually 20 unconfined kms-plugin probe

drop_in credential '[Service]' 'LoadCredential=vault-secret-id:/var/lib/bao/secret-id'
mv /etc/kms-plugin/secret-id /var/lib/bao/secret-id
restorecon -F /var/lib/bao/secret-id
sed -i 's/^secret_id_file = .*/credential = "vault-secret-id"/' "$config"
check 'it starts with a credential of systemd' systemctl restart "$service"
check '/healthz is good with the credential' eventually 10 healthz
check 'it answers with the credential' unconfined kms-plugin probe
rm -r /etc/systemd/system/kms-plugin.service.d
sed -i 's|^credential = .*|secret_id_file = "/etc/kms-plugin/secret-id"|' "$config"
mv /var/lib/bao/secret-id /etc/kms-plugin/secret-id
restorecon -F /etc/kms-plugin/secret-id
systemctl daemon-reload
systemctl restart "$service"

no_denials 'nothing was denied in all of that'

# --- What it must not do is denied -------------------------------------------------------------------------

may() { python3 -c 'import selinux, sys; sys.exit(selinux.selinux_check_access(*sys.argv[1:]))' "$domain" "system_u:object_r:$1:s0" "$2" "$3"; }
check 'the question itself is understood' may kms_plugin_etc_t file read
for type in bin_t shell_exec_t kms_plugin_exec_t; do
	check "executing a $type is denied" refused may "$type" file execute_no_trans
done
for type in shadow_t user_home_t sshd_key_t; do
	check "reading a $type is denied" refused may "$type" file read
done
mark

install -m 0640 -g kms-plugin /dev/null /var/spool/foreign
echo s.foreign >/var/spool/foreign
overlay '[vault.auth]' 'secret_id_file = "/var/spool/foreign"'
check 'a reload that needs a foreign file fails' refused systemctl reload "$service"
denial 'and the denial is logged' 'denied .*name="(foreign|spool)".*kms_plugin_t'
overlay '[server]' 'admin = "127.0.0.1:9999"'
refused systemctl restart "$service"
denial 'listening elsewhere is denied' 'name_bind.*src=9999.*kms_plugin_t'
overlay '[vault]' 'addresses = ["http://127.0.0.1:9200"]' '[health]' 'ready_timeout = "2s"'
systemctl restart "$service"
denial 'connecting to another port is denied' 'name_connect.*dest=9200.*kms_plugin_t'
check 'and the status line tells of it' sh -c 'systemctl show --value -p StatusText kms-plugin | grep -q 9200'

# --- What an administrator may switch ----------------------------------------------------------------------

check 'a port can be labelled as Vault'"'"'s' semanage port -a -t kms_plugin_vault_port_t -p tcp 9200
check 'and then it is reached' eventually 60 unconfined kms-plugin probe
overlay '[vault]' 'addresses = ["https://127.0.0.1:8443"]' 'ca_file = "/etc/ssl/certs/test-ca.pem"' '[health]' 'ready_timeout = "2s"'
mark
systemctl restart "$service"
denial 'a port of web servers is denied at first' 'name_connect.*dest=8443.*kms_plugin_t'
check 'the boolean is there, and off' sh -c 'getsebool kms_plugin_connect_https | grep -q "off$"'
setsebool kms_plugin_connect_https on
check 'with the boolean it is reached' eventually 60 unconfined kms-plugin probe
setsebool kms_plugin_connect_https off
rm /etc/kms-plugin/config.d/50-test.toml
systemctl restart "$service"
check 'back at the start' eventually 60 unconfined kms-plugin probe
mark

# --- Limits that are enforced here ---------------------------------------------------------------------------

pid=$(main_pid)
limit() { awk -v name="$1" -v value="$2" 'index($0, name) == 1 { split(substr($0, length(name) + 1), field); found = field[1] == value && field[2] == value } END { exit !found }' "/proc/$pid/limits"; }
check 'the limit of open files is the unit'"'"'s' limit 'Max open files' 65536
check 'no core is dumped' limit 'Max core file size' 0
check 'the kernel kills others first' test "$(cat "/proc/$pid/oom_score_adj")" = -900
check 'the number of threads is bounded' test "$(cat /sys/fs/cgroup/system.slice/kms-plugin.service/pids.max)" = 64

# --- The clock jumps by an hour, either way ------------------------------------------------------------------

logins() { grep -c '"type":"response".*auth/approle/login' /var/lib/bao/audit.log; }
before=$(logins)
date --set='+1 hour' >/dev/null
check 'it answers after a jump ahead' unconfined kms-plugin probe
sleep 12
check '/healthz is good after a jump ahead' healthz
date --set='-2 hours' >/dev/null
check 'it answers after a jump back' unconfined kms-plugin probe
sleep 12
check '/healthz is good after a jump back' healthz
check 'no jump made it log in again' test "$(logins)" = "$before"
check 'nor restarted it' test "$(main_pid)" = "$pid"

no_denials 'nothing was denied since'
finish
