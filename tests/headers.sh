#!/bin/sh
# Every header compiles alone, as C11 and (kernels/*.h, for CUDA) as C++17.
set -eu
root=$1
cc=${CC:-cc} cxx=${CXX:-c++}
cd "$root"
bad=0
for header in kernels/*.h kernels/cpu/*.h engine/*.h server/*.h; do
	[ -e "$header" ] || continue
	printf '#include "%s"\n' "$header" | $cc -std=c11 -D_GNU_SOURCE -I. -Wall -Wextra -Werror -fsyntax-only -x c - || bad=1
done
for header in kernels/*.h; do
	printf '#include "%s"\n' "$header" | $cxx -std=c++17 -I. -Wall -Wextra -Werror -fsyntax-only -x c++ - || bad=1
done
exit $bad
