/* SPDX-License-Identifier: Apache-2.0 */
/* Shape arithmetic of tensor views and the error vocabulary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "kernels/error.h"
#include "kernels/tensor.h"

static void rows_slice_data_and_scale(void **state) {
	(void)state;
	int8_t data[4 * 3 * 5];
	float scale[4 * 3];
	struct tensor t = tensor_3d(data, DTYPE_I8, 4, 3, 5);
	t.scale = scale;
	struct tensor r = tensor_rows(t, 1, 2);
	assert_ptr_equal(r.data, data + 15);
	assert_ptr_equal(r.scale, scale + 3);
	assert_int_equal(tensor_count(&r), 30);
	assert_int_equal(tensor_row_count(&r), 6);
	assert_int_equal(tensor_cols(&r), 5);
}

static void describe_names_shape_and_type(void **state) {
	(void)state;
	char buf[64], tiny[8];
	struct tensor t = tensor_2d(NULL, DTYPE_BF16, 12, 7);
	assert_string_equal(tensor_describe(&t, buf, sizeof buf), "[12, 7] bf16");
	assert_int_equal(strlen(tensor_describe(&t, tiny, sizeof tiny)), 7);
	assert_int_equal(tensor_bytes(&t), 168);
}

static void error_keeps_the_first_failure(void **state) {
	(void)state;
	struct error e = {0};
	assert_int_equal(error_set(&e, -EINVAL, "field %s\nis bad", "a"), -EINVAL);
	assert_int_equal(error_set(&e, -EIO, "later"), -EIO);
	assert_int_equal(e.code, -EINVAL);
	assert_string_equal(e.text, "field a is bad");
	error_prefix(&e, "%s", "file");
	assert_string_equal(e.text, "file: field a is bad");
	assert_int_equal(error_set(NULL, -EIO, "x"), -EIO);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_slice_data_and_scale),
		cmocka_unit_test(describe_names_shape_and_type),
		cmocka_unit_test(error_keeps_the_first_failure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
