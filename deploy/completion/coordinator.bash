# Completion of the coordinator's flags, for bash.
# shellcheck disable=SC2207 # no word holds white space, and bash 3 has no mapfile
_coordinator() {
	local word=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W '-check -healthcheck -schema -token -version -h' -- "$word"))
	elif ((COMP_CWORD == 2)) && [[ ${COMP_WORDS[1]} == -token ]]; then
		COMPREPLY=($(compgen -W 'rtmp wss hls' -- "$word"))
	fi
}
complete -F _coordinator coordinator
