#!/usr/bin/env bash
# Installs what tests/slurm starts: Slurm's daemons, munge, and the database that sacct asks. Needs root and apt.
# Debian's packages start services of their own where there is a service manager; the tests use none of those.
set -euo pipefail
if command -v slurmctld slurmd slurmdbd munged mariadbd >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests/slurm/install.sh: needs root and apt-get; the Slurm tests will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurm-wlm slurmdbd munge mariadb-server >/dev/null
