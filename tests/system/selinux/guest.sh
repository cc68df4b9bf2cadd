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

check 'the module installs' semodule -i "$here/kms_plugin.pp" "$here/kms_plugin_ports.cil"
check 'the module is listed' sh -c 'semodule -l | grep -qx kms_plugin'

install -m 0755 "$here/kms-plugin" /usr/bin/kms-plugin
install -D -m 0755 "$here/kms-plugin-tools" /usr/libexec/kms-plugin/kms-plugin-tools
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
check 'OpenBao serves' eventually bao sys/health
bao sys/mounts/transit '{"type": "transit"}'
bao transit/keys/kms-key '{}' >/dev/null
bao sys/policies/acl/kms "$(kms_policy)"
bao sys/auth/approle '{"type": "approle"}'
bao auth/approle/role/kms '{"token_policies": "kms", "token_no_default_policy": true, "token_ttl": "24h", "token_max_ttl": "48h"}'
role_id=$(bao auth/approle/role/kms/role-id | field role_id)
(umask 077 && bao auth/approle/role/kms/secret-id '{}' | field secret_id >/etc/kms-plugin/secret-id)
chgrp kms-plugin /etc/kms-plugin/secret-id
chmod 0640 /etc/kms-plugin/secret-id
sed -i "s/ROLE_ID/$role_id/" "$config"
secret_in_file
check 'a new file in the configuration takes over its label' label /etc/kms-plugin/secret-id kms_plugin_etc_t

# --- The agent works, and nothing is denied ----------------------------------------------------------------

systemctl start kms-plugin.socket
check 'the socket has its label' label /run/kmsplugin/kms.sock kms_plugin_var_run_t
# The first connection starts the service.
check 'the first call starts the service, and one is answered' eventually probe
check 'the caller ran unconfined' sh -c "runcon -t unconfined_t -- bash -c '/usr/bin/kms-plugin --version >/dev/null; id -Z' | grep -q unconfined_t"
check 'the service is active' systemctl is-active --quiet "$service"
check 'ps tells the domain' test "$(ps -o label= -C kms-plugin)" = "$domain"
check 'the process runs in the domain' test "$(context_of "$(main_pid)")" = "$domain"
check 'the runtime directory has its label' label /run/kms-plugin kms_plugin_var_run_t
check 'the admin socket has its label' label /run/kms-plugin/admin.sock kms_plugin_var_run_t
check 'the state directory has its label' label /var/lib/kms-plugin kms_plugin_var_lib_t
check '/healthz is good' eventually healthz
check 'many calls at once are answered' eventually probe --count 100 --concurrency 8
check 'systemctl reload succeeds' systemctl reload "$service"
check 'a reload of a bad configuration fails' bad_reload
check 'systemctl restart succeeds' systemctl restart "$service"
check 'it answers after the restart' eventually probe
kill -KILL "$(main_pid)"
check 'it comes back after a kill' eventually probe
systemctl start kms-plugin-rebind.path
rm /run/kmsplugin/kms.sock
check 'a deleted socket comes back' eventually test -S /run/kmsplugin/kms.sock
check 'the new socket has the label, too' label /run/kmsplugin/kms.sock kms_plugin_var_run_t
check 'it answers on the new socket' eventually probe

drop_in credential '[Service]' 'LoadCredential=vault-secret-id:/var/lib/bao/secret-id'
mv /etc/kms-plugin/secret-id /var/lib/bao/secret-id
rm /etc/kms-plugin/config.d/*
overlay '[vault.auth]' 'credential = "vault-secret-id"'
check 'it starts with a credential of systemd' systemctl restart "$service"
check '/healthz is good with the credential' eventually healthz
check 'it answers with the credential' probe
rm -r /etc/systemd/system/kms-plugin.service.d
mv /var/lib/bao/secret-id /etc/kms-plugin/secret-id
restorecon -F /etc/kms-plugin/secret-id
systemctl daemon-reload

tls='[vault]
addresses = ["https://127.0.0.1:8443"]
ca_file = "/etc/ssl/certs/test-ca.pem"'
plain='[vault]
addresses = ["http://127.0.0.1:9200"]'
rm /etc/kms-plugin/config.d/*
secret_in_file
check 'it starts with the file again' systemctl restart "$service"
check '/healthz is good with the file' eventually healthz
no_denials 'nothing was denied in all of that'

# --- Local KEKs: they outlive the agent, with systemd, while the key service hangs ------------------------

printf '%s\n' '[local_kek]' 'enabled = true' >/etc/kms-plugin/config.d/20-local.toml
check 'it starts with local KEKs' systemctl restart "$service"
check 'it is ready for an outage' eventually status_line 'ready for an outage of 8h'
check 'systemd keeps the memory with the keys' eventually kept 1
check 'LimitMEMLOCK= is applied' limit "$(main_pid)" 'Max locked memory' 8388608
check 'that memory is locked' locked 256
check 'a seed is wrapped' unconfined python3 "$here/seed.py" wrap /root/wrapped
check 'the list of wrapped keys has its label' eventually label /var/lib/kms-plugin/wrapped-keys.json kms_plugin_var_lib_t
systemctl kill --signal=STOP bao
check 'the seed is unwrapped while OpenBao hangs' unconfined python3 "$here/seed.py" unwrap /root/wrapped
check 'systemctl restart succeeds meanwhile' systemctl restart "$service"
check 'the seed is unwrapped after the restart' unconfined python3 "$here/seed.py" unwrap /root/wrapped
kill -KILL "$(main_pid)"
check 'the seed is unwrapped after a kill' eventually unconfined python3 "$here/seed.py" unwrap /root/wrapped
check 'another one is wrapped' unconfined python3 "$here/seed.py" wrap /root/wrapped-too
check 'systemd still keeps the memory' kept 1
check 'the memory is locked again' locked 256
systemctl kill --signal=CONT bao
check 'it is ready again when OpenBao goes on' eventually status_line 'ready for an outage of 8h'
rm /etc/kms-plugin/config.d/20-local.toml
check 'it starts without local KEKs' systemctl restart "$service"
check 'systemd keeps nothing any more' eventually kept 0
check 'the seed is unwrapped by OpenBao' unconfined python3 "$here/seed.py" unwrap /root/wrapped
no_denials 'nothing was denied in that, neither to the agent nor to systemd'

# --- Limits that a container cannot enforce ----------------------------------------------------------------

group=/sys/fs/cgroup$(systemctl show --property=ControlGroup --value "$service")
pid=$(main_pid)
check 'OOMScoreAdjust= is applied' test "$(cat "/proc/$pid/oom_score_adj")" = -900
check 'LimitNOFILE= is applied' limit "$pid" 'Max open files' 65536
check 'LimitCORE= is applied' limit "$pid" 'Max core file size' 0
check 'TasksMax= is applied' test "$(cat "$group/pids.max")" = 64
check 'MemoryMax= is applied' test "$(cat "$group/memory.max")" = $((384 << 20))
check 'a hostile caller is served within it' unconfined python3 "$here/hostile.py"
check 'that took a quarter of it at most' test "$(cat "$group/memory.peak")" -le $((96 << 20))
echo "# memory: peak $(($(cat "$group/memory.peak") >> 10)) KiB under a hostile caller"
check 'nothing was killed' grep -qx 'oom_kill 0' "$group/memory.events"
check 'it still answers' probe
systemctl set-property --runtime "$service" MemoryMax=64M
check 'it serves many calls within 64 MiB' eventually probe --count 200 --concurrency 16
check 'without being killed' test "$(main_pid)" = "$pid"
echo "# memory: peak $(($(cat "$group/memory.peak") >> 10)) KiB, $(cat "$group/pids.current") tasks"

# --- The clock jumps ----------------------------------------------------------------------------------------

logins_before=$(logins)
check 'logins are counted' test "$logins_before" -ge 3
date -s '+1 hour' >/dev/null
check 'it answers when the clock jumped an hour ahead' probe
sleep 7
check 'it still does after some checks of its own' probe
check '/healthz is good in that hour' healthz
date -s '-1 hour' >/dev/null
check 'it answers when the clock jumped back' probe
sleep 7
check 'it still does after some checks of its own, again' probe
check '/healthz is good after that' healthz
check 'it did not log in for that' test "$(logins)" = "$logins_before"
check 'systemd did not restart it' test "$(main_pid)" = "$pid"
# Beyond the end of the token, by that clock. Whether OpenBao then ends it is up to OpenBao.
date -s '+25 hours' >/dev/null
check "it answers when the clock jumped beyond its token's life" eventually probe
sleep 6
check '/healthz is good at that time' eventually healthz
check 'it logged in once or twice at most' between 0 2 $(($(logins) - logins_before))
echo "# $(($(logins) - logins_before)) logins after the jump of 25 hours"
date -s '-25 hours' >/dev/null
check 'it answers when that jump is undone, too' eventually probe
no_denials 'nothing was denied in that'

# --- What is forbidden ---------------------------------------------------------------------------------------

# A file that the modes would let the agent read.
install -m 0640 -g kms-plugin /etc/kms-plugin/secret-id /srv/secret-id
chcon -t user_home_t /srv/secret-id
overlay '[vault.auth]' 'secret_id_file = "/srv/secret-id"'
check 'a secret labelled user_home_t is refused at a reload' refused systemctl reload "$service"
denial 'and that denial is logged' "\{ (open|read|getattr) \}.*scontext=$domain .*:user_home_t:.* tclass=file"
check 'the agent goes on with what it had' probe
chcon -t shadow_t /srv/secret-id
check 'a secret labelled shadow_t is refused at a start' unhealthy
denial 'and that denial is logged' "\{ (open|read|getattr) \}.*scontext=$domain .*:shadow_t:.* tclass=file"

overlay '[vault]' 'addresses = ["http://127.0.0.1:9200"]'
check 'a Vault on an unknown port is out of reach' unhealthy
denial 'and that denial is logged' "\{ name_connect \}.*dest=9200 .*scontext=$domain "
check 'so does the documented search find it' sh -c 'ausearch -m avc -su kms_plugin_t -ts recent -i | grep -q "dest=9200"'
check 'so does the journal' sh -c 'journalctl --quiet --no-pager --grep "avc:.*kms_plugin_t" | grep -q "dest=9200"'
setsebool kms_plugin_connect_any on
check 'kms_plugin_connect_any opens any port' eventually healthz
setsebool kms_plugin_connect_any off
semanage port -a -t kms_plugin_vault_port_t -p tcp 9200
check 'the port has its label now' port 9200 kms_plugin_vault_port_t
systemctl restart "$service"
check 'a label on the port opens it' eventually healthz

overlay '[vault]' 'addresses = ["https://127.0.0.1:8443"]' 'ca_file = "/etc/ssl/certs/test-ca.pem"'
check 'a Vault on a port of web servers is out of reach' unhealthy
denial 'and that denial is logged' "\{ name_connect \}.*dest=8443 .*scontext=$domain "
setsebool kms_plugin_connect_https on
check 'kms_plugin_connect_https opens it, with a CA file among the certificates' eventually healthz
setsebool kms_plugin_connect_https off

overlay '[server]' 'admin = "127.0.0.1:9999"'
mark
check 'listening elsewhere fails the start' refused systemctl restart "$service"
denial 'and that denial is logged' "\{ name_bind \}.*src=9999 .*scontext=$domain "
as_before
check 'it starts again when that is undone' eventually systemctl restart "$service"

# A program in the agent's place, as if the agent had been taken over: it may do no more.
cp "$(readlink -f /usr/bin/python3)" /usr/local/bin/taken-over
chcon -t kms_plugin_exec_t /usr/local/bin/taken-over
install -m 0644 "$here/taken-over.py" /usr/share/taken-over.py
taken_over() {
	local unit=$1
	shift
	systemd-run --quiet --unit="$unit" --property=NoNewPrivileges=yes "$@"
}
program=(/usr/local/bin/taken-over -S -E /usr/share/taken-over.py)
systemctl stop kms-plugin.socket "$service"
chown root /var/lib/kms-plugin
mark
check 'taken over, even as root, it has nothing that was not granted' \
	taken_over taken-over --wait "${program[@]}" attack
journalctl --quiet --no-pager --output=cat --unit=taken-over | grep -a '^taken over' | sed 's/^/# /'
for object in 'shadow_t:.* tclass=file' 'bin_t:.* tclass=dir' 'http_port_t:.* tclass=tcp_socket' 'etc_t:.* tclass=dir' 'kms_plugin_var_lib_t:.* tclass=file'; do
	check "the denial of $object is logged" something_new "scontext=$domain .*:$object"
done
mark
taken_over keeper --property=NotifyAccess=main --property=FileDescriptorStoreMax=4 "${program[@]}" keep
check 'what it may, it can: leave a file in memory with systemd' \
	eventually sh -c 'test "$(systemctl show --property=NFileDescriptorStore --value keeper)" = 1'
check 'nothing of that was denied' refused something_new 'kms_plugin_tmpfs_t|tclass=fd'
systemctl stop keeper
rm /usr/local/bin/taken-over

# --- Containers ------------------------------------------------------------------------------------------------

# Debian's policy has no containers: types of the same names stand in for those of container-selinux.
# In the same transaction, which takes long here: a port's label without `semanage`.
echo '(portcon tcp 9690 (system_u object_r kms_plugin_admin_port_t ((s0) (s0))))' >/tmp/more_ports.cil
check 'the stand-in for container-selinux installs' semodule -i "$here/standin.pp" /tmp/more_ports.cil
overlay '[server]' 'admin = "127.0.0.1:9690"'
systemctl start kms-plugin.socket
# A container's client is one program: the tools, which have the probe.
cp /usr/libexec/kms-plugin/kms-plugin-tools /usr/local/bin/client
restorecon -F /usr/local/bin/client
check 'it is up for the containers' eventually probe
check 'it listens on the port that was labelled without semanage' curl -fsS http://127.0.0.1:9690/healthz
check 'a privileged container may call' eventually contained_probe spc_t
check 'another container may not' refused contained_probe container_t
denial 'and that denial is logged, too' "scontext=[^ ]*:container_t:.*(kms_plugin_var_run_t|kms_plugin_t)"
setsebool kms_plugin_container_connect on
check 'kms_plugin_container_connect lets it' contained_probe container_t

# --- Removal ---------------------------------------------------------------------------------------------------

systemctl stop kms-plugin.socket "$service"
# While a port that was labelled with it remains, the module cannot be removed.
check 'the label of the port goes first' semanage port -d -p tcp 9200
check 'the module can be removed' semodule -r standin more_ports kms_plugin kms_plugin_ports
check 'SELinux is still enforcing' test "$(getenforce)" = Enforcing
finish
