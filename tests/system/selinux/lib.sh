# What the checks are written with.

number=0
failed=0

# check NAME COMMAND…: one line of TAP; the command's output follows a failure.
check() {
	local name=$1 output
	shift
	number=$((number + 1))
	if output=$("$@" 2>&1 </dev/null); then
		echo "ok $number - $name"
		return 0
	fi
	failed=$((failed + 1))
	echo "not ok $number - $name"
	echo "# failed: $(printf '%s ' "$@" | head -n 1 | cut -c1-200)"
	printf '%s\n' "$output" | tail -n 20 | sed 's/^/#   /'
	denials | tail -n 3 | cut -c1-300 | sed 's/^/#   /'
	return 1
}

finish() {
	echo "1..$number"
	echo "# guest finished after $(uptime_seconds) s, $failed failed"
}

refused() { ! "$@"; }

# eventually SECONDS COMMAND…: until the command succeeds.
eventually() {
	local until=$(($(uptime_seconds) + $1))
	shift
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
mark() { seen=$(denials | wc -l); }
new_denials() { denials | tail -n "+$((seen + 1))"; }

none() { [ -z "$1" ] || { echo "$1"; return 1; }; }
matches() { grep -qE "$1" <<<"$2" || { echo "no such denial among the last:"; tail -n 5 <<<"$2" | cut -c1-300; return 1; }; }

no_denials() {
	check "$1" none "$(new_denials | cut -c1-300 | tail -n 20)"
	mark
}

# denial NAME PATTERN: at least one denial since the last mark matches.
denial() {
	check "$1" matches "$2" "$(new_denials)"
	mark
}

# A command as an administrator runs it.
unconfined() { runcon -t unconfined_t -- bash -c '"$@"' bash "$@"; }

healthz() { curl -fsS --max-time 5 http://127.0.0.1:8690/healthz; }

# bao PATH [JSON]: a request to OpenBao with the root token; with JSON, a POST.
bao() {
	curl -fsS --max-time 10 -H 'X-Vault-Token: root' ${2:+-d "$2"} "http://127.0.0.1:8200/v1/$1"
}

# The value of a string in JSON, where its name occurs once.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | tr -d '\n'; }

# The policy of the README, as the API takes it.
jq_policy() {
	printf '{"policy": "%s"}' "$(
		for rule in transit/encrypt/kms-key:update transit/decrypt/kms-key:update transit/keys/kms-key:read auth/token/lookup-self:read; do
			printf 'path \\"%s\\" { capabilities = [\\"%s\\"] }\\n' "${rule%:*}" "${rule#*:}"
		done
	)"
}

# overlay LINE…: the configuration with these lines on top.
overlay() { printf '%s\n' "$@" >/etc/kms-plugin/config.d/50-test.toml; }

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
	rm /etc/kms-plugin/config.d/50-test.toml
	systemctl reload kms-plugin.service
	return "$outcome"
}
