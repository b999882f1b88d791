/* The C interface from C99: what a program that knows no C++ compiles. c_interface_test.cpp calls it. */
#include <adamant/adamant.h>
#include <stdio.h>
#include <string.h>

/* Trains, saves, resumes in another optimizer and compares. Null when all went well, otherwise what did not. */
const char* adamant_test_program_in_c(const char* checkpoint);

#define EXPECT(condition) \
  if (!(condition)) return #condition
#define EXPECT_SUCCESS(call) \
  if ((call) != ADAMANT_SUCCESS) return adamant_last_error()

enum { kCount = 3 };

static const char* start(adamant_optimizer** optimizer, float* weights, float* gradient, int64_t* id) {
  const int64_t shape[] = {1, kCount};
  const adamant_option options[] = {{.name = "learning_rate", .number = 0.5}, {.name = "amsgrad", .text = "true"}};
  const adamant_settings settings = {.struct_size = sizeof settings, .device = ADAMANT_CPU, .threads = 1};
  const adamant_tensor tensor = {.struct_size = sizeof tensor,
                                 .name = "weights",
                                 .parameter = {weights, kCount, ADAMANT_FLOAT32, 0},
                                 .gradient = {gradient, kCount, ADAMANT_FLOAT32, 0},
                                 .shape = shape,
                                 .dimensions = 2};
  EXPECT_SUCCESS(adamant_create("adam", options, 2, &settings, optimizer));
  EXPECT_SUCCESS(adamant_add(*optimizer, &tensor, id));
  return NULL;
}

static const char* steps(adamant_optimizer* optimizer, const float* weights, float* gradient, int count) {
  for (int step = 0; step < count; ++step) {
    for (int i = 0; i < kCount; ++i) gradient[i] = weights[i] - 2.0F;
    EXPECT_SUCCESS(adamant_step(optimizer, NULL));
  }
  return NULL;
}

static const char* run(adamant_optimizer** first, adamant_optimizer** second, const char* checkpoint) {
  float weights[kCount] = {1, 2, 3}, gradient[kCount] = {0};
  float resumed[kCount] = {0}, resumed_gradient[kCount] = {0};
  int64_t id = -1, count = 0;
  const adamant_step_control control = {.struct_size = sizeof control, .clip_norm = 1.0, .non_finite = ADAMANT_SKIP};
  adamant_step_report report = {.struct_size = sizeof report};
  adamant_tensor given = {.struct_size = sizeof given};
  adamant_array state;
  const char* value = NULL;
  const char* failure = start(first, weights, gradient, &id);
  if (failure != NULL) return failure;
  EXPECT_SUCCESS(adamant_set_control(*first, &control, NULL));
  if ((failure = steps(*first, weights, gradient, 10)) != NULL) return failure;
  EXPECT_SUCCESS(adamant_step_count(*first, id, NULL, &count));
  EXPECT(count == 10);
  EXPECT_SUCCESS(adamant_report(*first, NULL, &report));
  EXPECT(report.gradient_norm > 0 && report.skipped == 0 && report.struct_size == sizeof report);
  EXPECT_SUCCESS(adamant_state(*first, id, "max_exp_avg_sq", &state));
  EXPECT(state.count == kCount && state.type == ADAMANT_FLOAT32 && ((const float*)state.data)[0] > 0);
  EXPECT_SUCCESS(adamant_get_tensor(*first, id, &given));
  EXPECT(strcmp(given.name, "weights") == 0 && given.dimensions == 2 && given.shape[1] == kCount);
  EXPECT_SUCCESS(adamant_get_option(*first, 0, "amsgrad", &value));
  EXPECT(strcmp(value, "true") == 0);

  EXPECT_SUCCESS(adamant_save(*first, checkpoint, NULL, NULL));
  if ((failure = start(second, resumed, resumed_gradient, NULL)) != NULL) return failure;
  EXPECT_SUCCESS(adamant_set_control(*second, &control, NULL));
  EXPECT_SUCCESS(adamant_load(*second, checkpoint, NULL, NULL));
  EXPECT(memcmp(weights, resumed, sizeof weights) == 0);
  if ((failure = steps(*first, weights, gradient, 10)) != NULL) return failure;
  if ((failure = steps(*second, resumed, resumed_gradient, 10)) != NULL) return failure;
  EXPECT(memcmp(weights, resumed, sizeof weights) == 0);

  EXPECT(adamant_set_option_number(*first, 0, "beta1", 2.0, NULL) == ADAMANT_INVALID_ARGUMENT);
  EXPECT(strstr(adamant_last_error(), "beta1 = 2") != NULL);
  return NULL;
}

const char* adamant_test_program_in_c(const char* checkpoint) {
  adamant_optimizer *first = NULL, *second = NULL;
  const char* const failure = run(&first, &second, checkpoint);
  adamant_destroy(first);
  adamant_destroy(second);
  return failure;
}
