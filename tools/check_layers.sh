#!/bin/sh
# Fails when a file includes what its layer may not: server -> engine -> kernels,
# each external library in one file. Run from the repository root, or with it as
# the argument.
set -eu
cd "${1:-.}"
bad=0

# deny PATTERN EXCEPT FILES...: no file but those whose path matches EXCEPT may
# include a header matching PATTERN.
deny() {
	pattern=$1 except=$2
	shift 2
	for file in "$@"; do
		if [ -n "$except" ] && printf '%s\n' "$file" | grep -qE "$except"; then continue; fi
		if grep -HnE "#include [\"<]($pattern)" "$file"; then
			echo "  ^ not allowed here: $pattern" >&2
			bad=1
		fi
	done
}

list() { find "$@" -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh'; }
all=$(list kernels engine server)

deny '(engine|server)/' '' $(list kernels)
deny 'server/' '' $(list engine)
deny 'kernels/(cpu|cuda)/' '' $(list engine server)
deny 'kernels/(ops|backend|tensor)|engine/(arena|decoder|dit|impl|kvcache|model|prompts|sampler|sparsity|spm|text|tokenizer|weights)' \
	'' $(list server)
deny 'cuda|cublas|cudnn' '^kernels/cuda/' $all
deny 'dnnl|oneapi' '^kernels/cpu/onednn' $all
deny 'cblas|openblas' '^kernels/cpu/openblas' $all
deny 'sentencepiece' '^engine/spm\.cc$' $all
deny 'utf8proc' '^engine/(clean|tokenizer)\.c$' $all
deny 'microhttpd' '^server/http\.c$' $all
deny 'libwebsockets' '^server/ws\.c$' $all
deny 'vpx/' '^server/vp9\.c$' $all
deny 'ini\.h' '^server/conf' $all
exit $bad
