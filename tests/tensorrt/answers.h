// The answers of our ops in float64: each puts the outputs of a call beside its inputs.
#pragma once

#include "cases.h"

void causal_conv1d(Arrays& a, const Case& call);
void selective_scan(Arrays& a, const Case& call);
void ssd_scan(Arrays& a, const Case& call);
void causal_attention(Arrays& a, const Case& call);
void linear(Arrays& a, const Case& call);
void rms_norm(Arrays& a, const Case& call);
void rotary_embedding(Arrays& a, const Case& call);
void experts(Arrays& a, const Case& call);
void top_k_router(Arrays& a, const Case& call);
void embedding(Arrays& a, const Case& call);
void last_token(Arrays& a, const Case& call);
