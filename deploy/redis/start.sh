#!/bin/sh
# Starts Redis with the one user that users.acl allows; its password comes as REDIS_PASSWORD and is kept as a hash alone.
set -eu
umask 077
hash=$(printf %s "${REDIS_PASSWORD:?}" | sha256sum | cut -d ' ' -f 1)
unset REDIS_PASSWORD
sed "s/PASSWORD_SHA256/$hash/" /etc/redis/users.acl >/run/redis/users.acl
exec redis-server /etc/redis/redis.conf
