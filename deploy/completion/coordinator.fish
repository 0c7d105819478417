# Completion of the coordinator's flags, for fish. It takes one of them.
complete -c coordinator -f
complete -c coordinator -n __fish_is_first_token -o check -d 'check the configuration and print what would be used, without secrets'
complete -c coordinator -n __fish_is_first_token -o healthcheck -d 'ask the process that runs with this configuration whether it is alive'
complete -c coordinator -n __fish_is_first_token -o schema -d 'print what the database of DATABASE_URL needs, as SQL'
complete -c coordinator -n __fish_is_first_token -o token -x -a 'rtmp wss hls' -d 'print a control token of CONTROL_SECRET for a peer'
complete -c coordinator -n __fish_is_first_token -o version -d 'print the version, commit and date of this program'
complete -c coordinator -n __fish_is_first_token -o h -d 'print this help'
