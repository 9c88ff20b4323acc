#!/bin/sh
# teco in a container. A folder of the host belongs to somebody there, whom the container is not
# unless it is told: that is said before teco fails to write.
if [ ! -w . ]; then
  echo "note: $(pwd) cannot be written by user $(id -u) of this container:" \
    "add --user \"\$(id -u):\$(id -g)\" to docker run, and what is made is yours" >&2
fi
exec teco "$@"
