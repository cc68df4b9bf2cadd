# What the checks are written with.

number=0
failed=0

# check NAME COMMAND…: one line of TAP; the command's output follows a failure.
check() {
	local name=$1 output began outcome=0
	shift
	number=$((number + 1))
	began=$(uptime_seconds)
	output=$("$@" 2>&1 </dev/null) || outcome=$?
	began=$(($(uptime_seconds) - began))
	[ "$began" -lt 5 ] || echo "# $began s for this:"
	if [ "$outcome" = 0 ]; then
		echo "ok $number - $name"
		return 0
	fi
	failed=$((failed + 1))
	echo "not ok $number - $name"
	echo "# failed: $*"
	printf '%s\n' "$output" | tail -n 20 | cut -c 1-400 | sed 's/^/#   /'
	journalctl --quiet --no-pager --output=cat --lines=8 --unit=kms-plugin.service | cut -c 1-400 | sed 's/^/#   journal: /'
	new_denials | tail -n 5 | sed 's/^/#   /'
	return 1
}

finish() {
	echo "1..$number"
	echo "# guest finished after $(uptime_seconds) s, $failed failed"
}

refused() { ! "$@"; }

# How long a check waits for what must come: far longer than it takes, since a machine can be slow and still right.
export patience=90 # seconds

# eventually COMMAND…: until the command succeeds.
eventually() {
	local until=$(($(uptime_seconds) + patience))
	until "$@"; do
		[ "$(uptime_seconds)" -lt "$until" ] || return 1
		sleep 0.5
	done
}

# Not the wall clock: one of the checks sets it.
uptime_seconds() { local up rest; read -r up rest </proc/uptime; echo "${up%.*}"; }

main_pid() { systemctl show --property=MainPID --value kms-plugin.service; }
context_of() { tr -d '\0' <"/proc/$1/attr/current"; }

# label PATH TYPE
label() {
	local context
	context=$(stat -c %C "$1") || return 1
	[[ $context == *:$2:* ]] || { echo "$1 is $context"; return 1; }
}

# port NUMBER TYPE
port() { semanage port -l | awk -v port="$1" -v type="$2" '$1 == type && $2 == "tcp" && $3 == port { found = 1 } END { exit !found }'; }

# The denials that concern the module, as the audit daemon wrote them, newest last.
denials() { grep -h 'avc:  denied' /var/log/audit/audit.log 2>/dev/null | grep kms_plugin; }

seen=0
# Forgets the denials up to now.
mark() { sleep 0.3; seen=$(denials | wc -l); }
new_denials() { denials | tail -n "+$((seen + 1))"; }

# The new ones, one line a kind.
kinds() {
	new_denials | sed -E 's/.*denied  (\{[^}]*\}).* comm="([^"]*)"( (path|name)="([^"]*)")?.* scontext=[^:]*:[^:]*:([^:]*).* tcontext=[^:]*:[^:]*:([^:]*).* tclass=([a-z0-9_]*).*/\6 \7 \8 \1 \2/' | sort | uniq -c | head -n 30
}

nothing_new() { [ "$(new_denials | wc -l)" = 0 ] || { kinds; return 1; }; }
something_new() { new_denials | grep -E "$1" >/dev/null || { echo "no denial like $1 among:"; kinds; return 1; }; }

no_denials() { check "$1" nothing_new; mark; }

# denial NAME PATTERN: at least one denial since the last mark matches.
denial() { check "$1" something_new "$2"; mark; }

# A command as an administrator runs it.
unconfined() { runcon -t unconfined_t -- bash -c '"$@"' bash "$@"; }

# status_line WORDS
status_line() {
	local line
	line=$(systemctl show --property=StatusText --value kms-plugin.service)
	[[ $line == *"$1"* ]] || { echo "the STATUS line is: $line"; return 1; }
}

# kept NUMBER: of descriptors that systemd keeps for the agent.
kept() {
	local number
	number=$(systemctl show --property=NFileDescriptorStore --value kms-plugin.service)
	[ "$number" = "$1" ] || { echo "systemd keeps $number"; return 1; }
}

# locked KIB: at least that much of the agent's memory.
locked() {
	local found
	found=$(awk '$1 == "VmLck:" { print $2 }' "/proc/$(main_pid)/status")
	[ "$found" -ge "$1" ] || { echo "$found KiB are locked"; return 1; }
}

# probe [OPTION…]: calls over the socket. The agent's own call_timeout, in config.toml, is longer than the patience.
probe() { unconfined kms-plugin probe --timeout "${patience}s" "$@"; }

# contained_probe TYPE: a call as a container of this type makes it.
contained_probe() { runcon -r system_r -t "$1" -- /usr/local/bin/client probe --timeout "${patience}s"; }

healthz() { curl -fsS --max-time "$patience" http://127.0.0.1:8690/healthz; }

# bao PATH [JSON]: a request to OpenBao with the root token; with JSON, a POST.
bao() {
	curl -fsS --max-time "$patience" -H 'X-Vault-Token: root' ${2:+-d "$2"} "http://127.0.0.1:8200/v1/$1"
}

# The value of a string in JSON, where its name occurs once.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | tr -d '\n'; }

# The policy of the README, as the API takes it.
kms_policy() {
	printf '{"policy": "%s"}' "$(
		for rule in transit/encrypt/kms-key:update transit/decrypt/kms-key:update transit/keys/kms-key:read auth/token/lookup-self:read; do
			printf 'path \\"%s\\" { capabilities = [\\"%s\\"] }\\n' "${rule%:*}" "${rule#*:}"
		done
	)"
}

secret_in_file() {
	printf '%s\n' '[vault.auth]' 'secret_id_file = "/etc/kms-plugin/secret-id"' >/etc/kms-plugin/config.d/10-secret.toml
}

# overlay LINE…: the configuration with these lines on top.
overlay() { printf '%s\n' "$@" >/etc/kms-plugin/config.d/50-test.toml; }

as_before() { rm -f /etc/kms-plugin/config.d/50-test.toml; }

# Whether a restart leads to an agent that serves and cannot reach its key.
unhealthy() {
	mark
	systemctl restart kms-plugin.service || return 1
	local answer
	answer=$(curl -sS --max-time "$patience" -o /dev/null -w '%{http_code}' http://127.0.0.1:8690/healthz)
	[ "$answer" = 503 ] || { echo "/healthz says $answer"; return 1; }
}

# drop_in NAME LINE…
drop_in() {
	local directory=/etc/systemd/system/kms-plugin.service.d name=$1
	shift
	mkdir -p "$directory"
	printf '%s\n' "$@" >"$directory/$name.conf"
	systemctl daemon-reload
}

bad_reload() {
	overlay '[vault.transit]' 'key = "there-is-no-such-key"'
	refused systemctl reload kms-plugin.service
	local outcome=$?
	as_before
	systemctl reload kms-plugin.service
	return "$outcome"
}

# limit PID NAME SOFT
limit() {
	local line
	line=$(grep "^$2 " "/proc/$1/limits") || return 1
	[[ $line =~ ^"$2"\ +$3\  ]] || { echo "$line"; return 1; }
}

# between LOW HIGH NUMBER
between() { [ "$3" -ge "$1" ] && [ "$3" -le "$2" ] || { echo "$3 is not within $1 to $2"; return 1; }; }

# How often the agent logged in, by OpenBao's audit log.
logins() { grep -c '"type":"request".*"path":"auth/approle/login"' /var/lib/bao/audit.log; }
