/* Fits y = a x^2 + b x + c to eleven points by least squares, saves half way, and goes on from the file in another
 * optimizer: both end at the same bits. */
#include <adamant/adamant.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What can be done about an error here is to say what the library says. */
static void check(adamant_status status) {
  if (status == ADAMANT_SUCCESS) return;
  fprintf(stderr, "%s\n", adamant_last_error());
  exit(1);
}

typedef struct {
  float coefficients[3]; /* a, b, c: what the optimizer updates */
  float gradient[3];     /* of the mean squared error: what it reads */
  adamant_optimizer* optimizer;
} fit;

static void start(fit* f) {
  const adamant_option options[] = {{.name = "learning_rate", .number = 0.05}};
  memset(f, 0, sizeof *f);
  check(adamant_create("adam", options, 1, NULL, &f->optimizer));
  adamant_tensor tensor = {.struct_size = sizeof tensor,
                           .name = "coefficients",
                           .parameter = {.data = f->coefficients, .count = 3, .type = ADAMANT_FLOAT32},
                           .gradient = {.data = f->gradient, .count = 3, .type = ADAMANT_FLOAT32}};
  check(adamant_add(f->optimizer, &tensor, NULL));
}

static void train(fit* f, int steps) {
  for (int step = 0; step < steps; ++step) {
    check(adamant_zero_gradients(f->optimizer, NULL));
    for (int i = 0; i <= 10; ++i) {
      const float x = (float)(i - 5) / 5.0F;
      const float y = 3.0F * x * x - 2.0F * x + 0.5F; /* what the fit has to find out */
      const float* c = f->coefficients;
      const float error = c[0] * x * x + c[1] * x + c[2] - y;
      f->gradient[0] += 2.0F * error * x * x / 11.0F;
      f->gradient[1] += 2.0F * error * x / 11.0F;
      f->gradient[2] += 2.0F * error / 11.0F;
    }
    check(adamant_step(f->optimizer, NULL));
  }
}

int main(void) {
  fit first, resumed;
  start(&first);
  train(&first, 500);
  check(adamant_save(first.optimizer, "fit.safetensors", NULL, NULL));
  train(&first, 500);

  start(&resumed);
  check(adamant_load(resumed.optimizer, "fit.safetensors", NULL, NULL));
  train(&resumed, 500);

  const float* c = first.coefficients;
  printf("y = %.4f x^2 %+.4f x %+.4f\n", c[0], c[1], c[2]);
  printf("resumed: %s\n",
         memcmp(c, resumed.coefficients, sizeof resumed.coefficients) == 0 ? "the same bits" : "others");

  /* A mistake has a status and a text. */
  if (adamant_set_learning_rate(first.optimizer, 0, -1.0, NULL) == ADAMANT_INVALID_ARGUMENT) {
    printf("%s\n", adamant_last_error());
  }
  adamant_destroy(first.optimizer);
  adamant_destroy(resumed.optimizer);
  return 0;
}
