#!/bin/sh
# Greps that a compiler does not do: trailing blanks, missing SPDX lines, unnamed
# to-dos, space indentation in C, files over the size limit, links in documents that
# lead nowhere. Argument: the root.
set -eu
cd "${1:-.}"
bad=0
say() { printf '%s\n' "$1" >&2; bad=1; }

for file in $(find kernels engine server tests bench tools web -type f \
	\( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.js' -o -name '*.css' -o -name '*.py' -o -name '*.sh' \)); do
	if grep -nE '[ 	]+$' "$file" >/dev/null; then say "$file: trailing blanks"; fi
	if grep -nE '\b(TODO|FIXME|XXX)\b' "$file" >/dev/null && [ "$file" != tools/check_style.sh ]; then say "$file: a to-do left behind"; fi
	[ -z "$(tail -c 1 "$file")" ] || say "$file: no newline at the end"
	case $file in
	*.[ch] | *.cc | *.cu | *.cuh)
		head -n 1 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || say "$file: first line is not the SPDX line"
		if grep -nE '^    [^ ]' "$file" >/dev/null; then say "$file: indented with spaces"; fi
		lines=$(wc -l <"$file")
		[ "$lines" -le 700 ] || say "$file: $lines lines, 700 is the limit"
		;;
	esac
done
for file in *.md docs/*.md engine/*.md models/*/*.md tools/*/*.md; do
	for target in $(sed -nE 's/\]\(([^)#: ]+)[^)]*\)/\n@\1\n/gp' "$file" | sed -n 's/^@//p'); do
		[ -e "$(dirname "$file")/$target" ] || say "$file: links to $target, which does not exist"
	done
	for target in $(grep -oE 'bench/results/[a-z0-9-]+\.json' "$file"); do
		[ -e "$target" ] || say "$file: names $target, which does not exist"
	done
done
exit $bad
